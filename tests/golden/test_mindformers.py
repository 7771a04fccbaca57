"""What MindSpore Transformers' converters write, asked of our drop-ins with the same flags; mindformers/PROVENANCE.md has the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.cli.mindformers import main
from convsvc.conversion import convert
from tests.golden.corpus import Digest, digest
from tests.golden.mindformers_corpus import Case, cases, write_ranks, write_whole
from tests.golden.outputs import differences, file_states, read_huggingface, read_megatron, what_looks_complete
from tests.golden.test_mindspeed_llm import is_clear


def select(kind: str, *trusts: str) -> list[Any]:
    return [pytest.param(case, id=case.id) for case in cases() if case.kind == kind and case.trust in trusts]


def pairs(args: dict[str, Any]) -> list[str]:
    return [word for name, value in args.items() for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]


def reverse(case: Case, source: Path, target: Path) -> list[str]:
    places = ["--input_path", str(source), "--output_path", str(target)]
    return ["reverse", "--model", case.family, "--reversed", *places, *pairs(dict(case.args))]


def to_megatron(case: Case, source: Path, target: Path) -> list[str]:
    sizes = case.sizes
    args = dict(case.args) or {
        "num-layers": sizes["layers"], "seq-length": 32, "padded-vocab-size": sizes["vocab"], "true-vocab-size": sizes["vocab"],
        "hidden-size": sizes["hidden"], "ffn-hidden-size": sizes["ffn"], "num-attention-heads": sizes["heads"],
        "num-query-groups": sizes["groups"], "position-embedding-type": "rope", "loader-transformer-impl": "local",
        "normalization": "RMSNorm", "swiglu": True,
    }  # fmt: skip
    fixed = ["to-megatron", "--model-type", "GPT", "--loader", "core_mf", "--saver", "core"]
    places = ["--load-dir", str(source), "--save-dir", str(target), "--ms2torch-ckpt-path", str(target.with_name("middle"))]
    cut = ["--target-tensor-parallel-size", str(case.target_tp), "--target-pipeline-parallel-size", str(case.target_pp)]
    return [*fixed, *places, *cut, *pairs(args)]


def read_parts(folder: Path) -> dict[str, Digest]:
    """A whole checkpoint of MindSpore Transformers, by its map: every name is in the file that it says, and in no other."""
    from safetensors.torch import load_file

    said = json.loads((folder / "param_name_map.json").read_text())["weight_map"]
    have: dict[str, Digest] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            assert said[name] == file.name
            have[name] = digest(tensor)
    assert have.keys() == said.keys()
    return have


def test_the_corpus_is_there_and_holds_every_kind_of_case() -> None:
    kinds = [(case.kind, case.trust) for case in cases()]
    assert len(cases()) == 41
    assert {kind for kind, _ in kinds} == {"reverse", "unified", "template", "megatron", "megatron_full"}
    assert kinds.count(("unified", "exact")) == 14
    assert all(case.expected for case in cases() if case.ok and case.kind != "megatron")


@pytest.mark.parametrize("case", select("reverse", "exact"))
def test_reverse_writes_the_tensors_that_the_source_tool_writes(case: Case, tmp_path: Path) -> None:
    write_whole(case, tmp_path / "in")
    before = file_states(tmp_path / "in")
    assert main(reverse(case, tmp_path / "in", tmp_path / "out")) == 0
    assert not differences(case.digests, read_huggingface(tmp_path / "out"))
    assert file_states(tmp_path / "in") == before


@pytest.mark.parametrize("case", select("reverse", "policy"))
def test_what_is_debatable_of_reverse_differs_in_a_copy_or_a_nan_at_most(case: Case, tmp_path: Path) -> None:
    write_whole(case, tmp_path / "in")
    assert main(reverse(case, tmp_path / "in", tmp_path / "out")) == 0
    have, want = read_huggingface(tmp_path / "out"), case.digests
    if "tied" in case.id:
        # The head of a tied model: transformers saves none.
        assert want.pop("lm_head.weight") == want["model.embed_tokens.weight"]
    if "special" in case.id:
        # Which bits a NaN has.
        for name in ("lm_head.weight", "model.layers.0.mlp.gate_proj.weight"):
            assert want.pop(name)[:2] == have.pop(name)[:2]
    assert not differences(want, have)


@pytest.mark.parametrize("case", select("reverse", "must_error", "peer_bug"))
def test_what_the_source_tool_fails_at_or_scrambles_is_done_right_or_refused_clearly(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_whole(case, tmp_path / "in")
    capsys.readouterr()
    status = main(reverse(case, tmp_path / "in", tmp_path / "out"))
    error = capsys.readouterr().err
    if case.id == "rev_q3_nomap_two_err":
        # Two files and no map: all files are read.
        assert status == 0
        assert set(read_huggingface(tmp_path / "out")) >= {"model.layers.1.self_attn.q_proj.weight", "lm_head.weight"}
    else:
        assert is_clear(status, error), (status, error)
        assert not what_looks_complete(tmp_path / "out")


@pytest.mark.parametrize("case", select("unified", "exact"))
def test_unify_joins_what_the_source_tool_joins(case: Case, tmp_path: Path) -> None:
    write_ranks(case, tmp_path / "in")
    before = file_states(tmp_path / "in")
    argv = ["unify", "--mindspore_ckpt_dir", str(tmp_path / "in" / "checkpoint"), "--src_strategy_dirs", str(tmp_path / "in" / "strategy")]
    argv += ["--output_dir", str(tmp_path / "out"), "--file_suffix", case.file_suffix, "--has_redundancy", str(case.has_redundancy)]
    argv += ["--filter_out_param_prefix", case.filter] if case.filter else []
    assert main(argv) == 0
    assert not differences(case.digests, read_parts(tmp_path / "out" / "unified_safe"))
    assert file_states(tmp_path / "in") == before


@pytest.mark.parametrize("case", select("template", "exact"))
def test_the_declarative_converters_give_the_same_both_ways(case: Case, tmp_path: Path) -> None:
    flags = {"use_interleaved_weight_layout_mlp": case.interleaved}
    source: dict[str, Any] = {"path": str(tmp_path / "in")}
    target: dict[str, Any] = {"path": str(tmp_path / "out")}
    write_whole(case, tmp_path / "in")
    if case.direction == "hf_to_mf":
        (tmp_path / "in" / "param_name_map.json").unlink()
        (tmp_path / "in" / "part0.safetensors").rename(tmp_path / "in" / "model.safetensors")
        (tmp_path / "in" / "config.json").write_text(json.dumps(config_of(case)))
        stacked = any(len(entry[1]) == 3 for entry in case.expected.values())
        source, target = source | {"format": "huggingface"}, target | {"format": "mindformers", "stacked_experts": stacked, **flags}
    else:
        source, target = source | {"format": "mindformers", **flags}, target | {"format": "huggingface"}
    convert({"source": source, "target": target}, engine="inline")
    read = read_parts if case.direction == "hf_to_mf" else read_huggingface
    assert not differences(case.digests, read(tmp_path / "out"))


def config_of(case: Case) -> dict[str, Any]:
    sizes, sparse = case.sizes, "experts" in case.sizes
    config = {
        "architectures": ["Qwen3MoeForCausalLM" if sparse else "Qwen3ForCausalLM"], "model_type": "qwen3_moe" if sparse else "qwen3",
        "hidden_size": sizes["hidden"], "vocab_size": sizes["vocab"], "num_hidden_layers": sizes["layers"], "head_dim": sizes["kv"],
        "num_attention_heads": sizes["heads"], "num_key_value_heads": sizes["groups"], "intermediate_size": sizes["ffn"],
        "tie_word_embeddings": False,
    }  # fmt: skip
    experts = {"num_experts": sizes["experts"], "moe_intermediate_size": sizes["moe_ffn"], "num_experts_per_tok": 2} if sparse else {}
    return config | experts


@pytest.mark.parametrize("case", [case for case in select("megatron", "policy") if "dropout_bias" in case.values[0].id])
def test_biases_that_only_one_layer_has_belong_to_no_model(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_whole(case, tmp_path / "in")
    status = main(to_megatron(case, tmp_path / "in", tmp_path / "out"))
    error = capsys.readouterr().err
    assert is_clear(status, error), (status, error)
    assert "bias" in error


@pytest.mark.parametrize(
    "case", [case for case in select("megatron", "policy") if "f32" in case.values[0].id] + select("megatron_full", "peer_bug")
)
def test_megatron_gets_gate_and_up_groups_and_heads_as_they_are(case: Case, tmp_path: Path) -> None:
    write_whole(case, tmp_path / "in")
    assert main(to_megatron(case, tmp_path / "in", tmp_path / "out")) == 0
    assert not (tmp_path / "middle").exists()
    have, sizes, want = read_megatron(tmp_path / "out").tensors, case.sizes, case.digests
    tp, pp = case.target_tp, case.target_pp
    for layer in range(sizes["layers"]):
        stage, place = divmod(layer, sizes["layers"] // pp)
        both = case.tensor(f"decoder.layers.{layer}.mlp.linear_fc1.weight").bfloat16()
        qkv = case.tensor(f"decoder.layers.{layer}.self_attention.linear_qkv.weight").bfloat16()
        for rank in range(tp):
            folder = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pp > 1 else "")
            gate, up = (both[start::2].chunk(tp)[rank] for start in (0, 1))
            name = f"{folder}/model/decoder.layers.{place}.mlp.linear_fc1.weight"
            # Right where the source tool leaves the rows interleaved.
            assert have[name] == digest(torch.cat([gate, up]))
            want.pop(name, None)
            assert have[f"{folder}/model/decoder.layers.{place}.self_attention.linear_qkv.weight"] == digest(qkv.chunk(tp)[rank])
    # Padding rows of the vocabulary are zeros here, and repeat its last row there.
    padded = {name: want.pop(name) for name in list(want) if name.endswith(("word_embeddings.weight", "output_layer.weight"))}
    assert {name: have[name][:2] for name in padded} == {name: entry[:2] for name, entry in padded.items()}
    assert not differences(want, {name: have[name] for name in want})
