"""What a source holds more than once is compared while it is converted: no copy is dropped that has other values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.engine.driver import RunResult
from convsvc.errors import JobError, SourceError
from tests.plan.adapted_ranks import add_adapters
from tests.tiny_checkpoints import write_llama
from tests.trust.stored import poke

NORM = "decoder.layers.0.input_layernorm.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def run(source: dict[str, Any], target: dict[str, Any], **options: Any) -> RunResult:
    return convert({"source": source, "target": target, "options": options}, engine="inline")


def huggingface(path: Path) -> dict[str, Any]:
    return {"format": "huggingface", "path": str(path)}


def mcore(path: Path, **more: Any) -> dict[str, Any]:
    return {"format": "mindspeed-llm", "path": str(path), **more}


def rank(root: Path, name: str) -> Path:
    return root / "iter_0000001" / name / "model_optim_rng.pt"


@pytest.fixture
def two_ranks(tmp_path: Path) -> Path:
    run(huggingface(write_llama(tmp_path / "hf")), mcore(tmp_path / "mcore", tensor_parallel_size=2))
    return tmp_path / "mcore"


@pytest.mark.parametrize("target", ["huggingface", "mindspeed-llm"])
def test_a_norm_that_differs_on_one_tensor_rank_is_an_error_that_names_both(target: str, two_ranks: Path, tmp_path: Path) -> None:
    poke(rank(two_ranks, "mp_rank_01"), f"model/{NORM}", 3, b"\x20\x40")
    with pytest.raises(SourceError, match="more than once") as caught:
        run(mcore(two_ranks), {"format": target, "path": str(tmp_path / "out")})
    read, other = caught.value.details["copies"]
    assert (read["tensor"], other["tensor"]) == (f"model/{NORM}",) * 2
    assert (read["path"], other["path"]) == tuple(str(rank(two_ranks, f"mp_rank_0{n}")) for n in range(2))
    assert read["index"] == other["index"] == caught.value.details["index"] == [3]
    assert other["value"] == "2.5 (BF16 0x4020)"
    assert "check_copies" in str(caught.value.do)
    assert "decoder.layers.0.input_layernorm.weight" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_who_does_not_want_copies_compared_is_told_that_they_are_not(two_ranks: Path, tmp_path: Path) -> None:
    poke(rank(two_ranks, "mp_rank_01"), f"model/{NORM}", 3, b"\x20\x40")
    done = run(mcore(two_ranks), huggingface(tmp_path / "out"), check_copies="none")
    assert any(note.kind == "ignored" and "options.check_copies is none" in note.text for note in done.notes)
    with pytest.raises(SourceError):  # a norm is small
        run(mcore(two_ranks), huggingface(tmp_path / "again"), check_copies="small")


def test_comparing_copies_reads_them_and_nothing_twice(two_ranks: Path, tmp_path: Path) -> None:
    kept = [run(mcore(two_ranks), huggingface(tmp_path / level), check_copies=level, verify="none") for level in ("all", "none")]
    norms = 2 * (2 * 2 + 1) * 16  # two in each layer and the final one, of 16 elements
    assert kept[0].bytes_read - kept[1].bytes_read == norms
    assert all("check_copies" not in note.text for note in kept[0].notes)


def test_a_copy_in_a_wider_type_is_equal_if_its_values_are(two_ranks: Path, tmp_path: Path) -> None:
    path = rank(two_ranks, "mp_rank_01")
    content = torch.load(path, weights_only=False)
    content["model"][NORM] = content["model"][NORM].float()
    torch.save(content, path)
    run(mcore(two_ranks), huggingface(tmp_path / "out"))
    content["model"][NORM][5] *= 1 + 2**-20
    torch.save(content, path)
    with pytest.raises(SourceError, match="the copies differ"):
        run(mcore(two_ranks), huggingface(tmp_path / "again"))
    content["model"][NORM] = torch.ones(16, dtype=torch.int16)
    torch.save(content, path)
    with pytest.raises((SourceError, JobError), match="I16"):
        run(mcore(two_ranks), huggingface(tmp_path / "third"))


def tied(path: Path, head: torch.Tensor | None) -> Path:
    write_llama(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(path / "model.safetensors")
    del weights[HEAD]
    save_file(weights | ({} if head is None else {HEAD: head}), path / "model.safetensors")
    return path


@pytest.mark.parametrize("check_copies", ["all", "none"])
@pytest.mark.parametrize("layout", [{}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}], ids=["one rank", "two stages"])
def test_a_tied_head_with_other_values_is_never_dropped(check_copies: str, layout: dict[str, int], tmp_path: Path) -> None:
    source = tied(tmp_path / "hf", torch.randn(64, 16).bfloat16())
    for target in (mcore(tmp_path / "mcore", **layout), huggingface(tmp_path / "other")):
        with pytest.raises(SourceError, match="more than once") as caught:
            run(huggingface(source), target, check_copies=check_copies)
        assert [copy["tensor"] for copy in caught.value.details["copies"]] == [EMBEDDING, HEAD]
        assert "tie_word_embeddings false" in str(caught.value.do)


def test_a_tied_head_that_is_stored_and_equal_is_one_tensor(tmp_path: Path) -> None:
    source = tied(tmp_path / "hf", None)
    weights = load_file(source / "model.safetensors")
    save_file(weights | {HEAD: weights[EMBEDDING].clone()}, source / "model.safetensors")
    run(huggingface(source), mcore(tmp_path / "mcore", pipeline_parallel_size=2), verify="roundtrip")
    poke(rank(tmp_path / "mcore", "mp_rank_00_001"), "model/output_layer.weight", 17, b"\x00\x41")
    with pytest.raises(SourceError) as caught:  # the head of the last stage
        run(mcore(tmp_path / "mcore"), huggingface(tmp_path / "back"))
    assert caught.value.details["index"] == [1, 1]


def test_an_adapter_side_that_all_ranks_hold_is_compared(two_ranks: Path, tmp_path: Path) -> None:
    add_adapters(two_ranks, 4)
    lora = {"r": 4, "alpha": 8}
    run(mcore(two_ranks, lora=lora), huggingface(tmp_path / "merged"))
    poke(rank(two_ranks, "mp_rank_01"), "model/decoder.layers.1.mlp.linear_fc1.lora_A.default.weight", 9, b"\x00\x41")
    for target in (huggingface(tmp_path / "out"), {**huggingface(tmp_path / "adapter"), "adapter_only": True}):
        with pytest.raises(SourceError, match="lora_A more than once"):
            run(mcore(two_ranks, lora=lora), target)
