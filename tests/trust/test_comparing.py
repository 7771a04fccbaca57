"""`convsvc verify A B`: two checkpoints that nobody need have written here, in any formats and cuts, are the same model or are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import convsvc
from convsvc.cli.main import main
from convsvc.conversion import convert
from convsvc.errors import SourceError
from tests.roundtrip.any_family import any_family
from tests.roundtrip.any_layout import Drawn
from tests.roundtrip.test_any_layout import write_model
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]


def rewrite(source: Path, target: Path, change: Callable[[Tensors], Any] = lambda tensors: None, shards: int = 1) -> Path:
    """The checkpoint with changed tensors, saved by safetensors itself."""
    tensors = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load_file(file).items()}
    change(tensors)
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return target
    where = {name: f"model-{1 + at * shards // len(names):05d}-of-{shards:05d}.safetensors" for at, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in names if where[name] == file}, target / file, metadata={"format": "pt"})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return target


def to_mcore(source: Path, target: Path, **layout: Any) -> Path:
    wanted = {"format": "mindspeed-llm", "path": str(target), **layout}
    convert({"source": {"format": "huggingface", "path": str(source)}, "target": wanted}, engine="inline")
    return target


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "hf", layers=4)


def compare(one: Path, other: Path) -> dict[str, Any]:
    answer = convsvc.compare(str(one), str(other))
    assert json.loads(json.dumps(answer)) == answer
    return answer


def test_the_same_model_is_the_same_in_any_format_and_cut(llama: Path, tmp_path: Path) -> None:
    sharded = rewrite(llama, tmp_path / "sharded", shards=3)
    flat = to_mcore(llama, tmp_path / "flat")
    cut = to_mcore(llama, tmp_path / "cut", tensor_parallel_size=2, pipeline_parallel_size=2, make_vocab_size_divisible_by=36)
    for one, other in ((llama, sharded), (llama, cut), (cut, llama), (flat, cut)):
        answer = compare(one, other)
        assert answer["same"], answer
        assert answer["compared"] > 20


def test_each_tensor_that_differs_is_named_with_how_much_and_where(llama: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.layers.2.mlp.down_proj.weight"][3, 5] += 0.5
        tensors["model.norm.weight"][:2] = torch.tensor([7.0, -9.0], dtype=torch.bfloat16)

    cut = to_mcore(rewrite(llama, tmp_path / "changed", change), tmp_path / "cut", tensor_parallel_size=2)
    answer = compare(llama, cut)
    assert not answer["same"]
    found = {each["name"]: each for each in answer["different"]}
    assert sorted(found) == ["decoder.layers.2.mlp.linear_fc2.weight", "final_layernorm.weight"]
    down = found["decoder.layers.2.mlp.linear_fc2.weight"]
    assert (down["elements"], down["of"]) == (1, 16 * 32)
    assert down["max_abs"] == pytest.approx(0.5, rel=0.1)
    assert down["a"] == ["model.layers.2.mlp.down_proj.weight"]
    assert down["first"] == [3, 5]
    assert found["final_layernorm.weight"]["elements"] == 2
    assert found["final_layernorm.weight"]["values"][1] == "7.0"


def test_other_dtypes_are_compared_by_value_and_said(llama: Path, tmp_path: Path) -> None:
    def widen(tensors: Tensors) -> None:
        tensors.update({name: tensor.float() for name, tensor in tensors.items()})

    def nearly(tensors: Tensors) -> None:
        widen(tensors)
        tensors["model.norm.weight"][1] += 1e-6

    answer = compare(llama, rewrite(llama, tmp_path / "wide", widen))
    assert answer["same"]
    assert answer["dtypes"] == {"BF16 and F32": answer["compared"]}
    answer = compare(llama, rewrite(llama, tmp_path / "nearly", nearly))
    assert [each["name"] for each in answer["different"]] == ["final_layernorm.weight"]
    assert 0 < answer["different"][0]["max_abs"] < 2e-6


def test_nan_and_signed_zeros_are_compared_as_bits(llama: Path, tmp_path: Path) -> None:
    def special(tensors: Tensors) -> None:
        tensors["model.norm.weight"][:2] = torch.tensor([float("nan"), 0.0], dtype=torch.bfloat16)

    def negative(tensors: Tensors) -> None:
        special(tensors)
        tensors["model.norm.weight"][1] = -0.0

    one = rewrite(llama, tmp_path / "one", special)
    assert compare(one, rewrite(llama, tmp_path / "two", special))["same"]
    answer = compare(one, rewrite(llama, tmp_path / "three", negative))
    assert [(each["elements"], each["max_abs"]) for each in answer["different"]] == [(1, 0.0)]


def test_a_copy_that_a_side_does_not_hold_alike_is_told(llama: Path, tmp_path: Path) -> None:
    cut = to_mcore(llama, tmp_path / "cut", tensor_parallel_size=2)
    path = cut / "iter_0000001/mp_rank_01/model_optim_rng.pt"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["model"]["decoder.final_layernorm.weight"][4] = 3.0
    torch.save(checkpoint, path)
    answer = compare(llama, cut)
    assert not answer["same"]
    assert answer["different"] == []
    assert len(answer["copies"]) == 1
    assert "final_layernorm.weight in b: 1 elements differ" in answer["copies"][0]
    assert "3.0" in answer["copies"][0]


def test_a_model_of_other_sizes_is_told_by_sizes_and_by_what_only_one_has(llama: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "short", layers=3)
    answer = compare(llama, other)
    assert "layers: 4 and 3" in answer["other_model"]
    assert len(answer["only_a"]) == 6
    assert answer["only_b"] == []
    config = json.loads((llama / "config.json").read_text())
    wide = rewrite(llama, tmp_path / "wide", lambda tensors: tensors.update(vocab(tensors)))
    (wide / "config.json").write_text(json.dumps({**config, "vocab_size": 66}))
    answer = compare(llama, wide)
    assert any("vocab 64" in each and "vocab 66" in each for each in answer["other_shape"])


def vocab(tensors: Tensors) -> Tensors:
    return {name: torch.cat([tensors[name], tensors[name][:2]]) for name in ("model.embed_tokens.weight", "lm_head.weight")}


def test_mtp_layers_that_one_side_only_carries_are_compared_too(tmp_path: Path) -> None:
    model = next(drawn for drawn in models("deepseek3", num_nextn_predict_layers=1) if drawn.num_mtp)
    write_model(model, tmp_path / "hf")
    carried, placed = to_mcore(tmp_path / "hf", tmp_path / "carried"), to_mcore(tmp_path / "hf", tmp_path / "placed", mtp_num_layers=1)
    for cut in (carried, placed):
        answer = compare(tmp_path / "hf", cut)
        assert answer["same"], answer


def models(family: str, **fixed: int) -> list[Drawn]:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    found: list[Drawn] = []

    @settings(
        max_examples=2, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        found.append(data.draw(any_family(family, layers=2, fixed=fixed)))

    draw()
    return found


@pytest.mark.parametrize("family", ["qwen3-moe", "qwen3-next", "deepseek3", "glm45", "mamba2", "gemma2"])
def test_families_of_all_kinds_are_the_same_after_a_conversion(family: str, tmp_path: Path) -> None:
    model = models(family)[0]
    write_model(model, tmp_path / "hf")
    cut = to_mcore(tmp_path / "hf", tmp_path / "cut")
    answer = convsvc.compare(str(tmp_path / "hf"), str(cut), model_type=family)
    assert answer["same"], answer


def test_pieces_of_a_tensor_that_is_larger_than_a_buffer_are_all_compared(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convsvc.execute.check import pairs

    monkeypatch.setattr(pairs, "BATCH_BYTES", 512)
    monkeypatch.setattr(pairs, "CHUNK_ELEMENTS", 100)

    def change(tensors: Tensors) -> None:
        tensors["model.layers.3.self_attn.v_proj.weight"][-1, -1] += 1
        tensors["lm_head.weight"][63, 15] += 1

    cut = to_mcore(rewrite(llama, tmp_path / "changed", change), tmp_path / "cut", tensor_parallel_size=2)
    answer = compare(llama, cut)
    assert [(each["name"], each["elements"]) for each in answer["different"]] == [
        ("decoder.layers.3.self_attention.linear_qkv.weight", 1),
        ("output_layer.weight", 1),
    ]
    assert answer["different"][1]["first"] == [63, 15]


def test_the_command_says_what_differs_and_ends_with_6(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = to_mcore(llama, tmp_path / "cut", tensor_parallel_size=2)
    assert main(["verify", str(llama), str(cut)]) == 0
    assert "the same model: " in capsys.readouterr().out
    other = rewrite(llama, tmp_path / "other", lambda tensors: tensors["model.norm.weight"].add_(1))
    assert main(["verify", str(other), str(cut)]) == 6
    out = capsys.readouterr().out
    assert "differs: final_layernorm.weight in 16 of 16 elements" in out
    assert out.rstrip().splitlines()[-1].startswith("not the same: ")
    assert main(["verify", str(other), str(cut), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["same"] is False


def test_what_is_no_checkpoint_is_told(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(llama), str(tmp_path / "empty")]) == SourceError.exit_code
    assert main(["verify", str(llama), str(tmp_path / "nothing")]) == SourceError.exit_code
    assert main(["verify", str(llama)]) == 2
    assert "with what is it compared" in capsys.readouterr().err


def test_an_iteration_is_chosen(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = to_mcore(llama, tmp_path / "cut")
    (cut / "iter_0000001").rename(cut / "iter_0000007")
    assert main(["verify", str(llama), str(cut)]) == SourceError.exit_code
    assert main(["verify", str(llama), str(cut), "--iteration", "7"]) == 0
    assert main(["verify", str(llama), str(cut / "iter_0000007")]) == 0
    capsys.readouterr()
