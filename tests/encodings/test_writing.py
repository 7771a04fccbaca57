"""A target is quantised on the way: whatever the source's layout, each weight's blocks are those of the dense weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.encodings.base import Part
from convsvc.encodings.known import ENCODINGS
from convsvc.errors import JobError, SourceError
from convsvc.plan import tasks
from convsvc.plan.planner import make_plan
from convsvc.tensors.dtypes import size_of
from tests.encodings.weights import TAGS
from tests.plan.test_quantised import CONFIG, LAYOUT, Tensors, save, twins

NAMES = {"F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32, "U8": torch.uint8, "I32": torch.int32, "BF16": torch.bfloat16}
# With groups of 32 columns everywhere.
EVEN = CONFIG | {"hidden_size": 160, "intermediate_size": 192, "moe_intermediate_size": 96, "head_dim": 20}


def dense() -> Tensors:
    """The tensors of a model whose rows and columns no block divides."""
    return twins()[1]


def expected(plain: Tensors, quantization: str, only: str) -> Tensors:
    """Every weight whose name has `only` in it encoded whole."""
    writer, made = ENCODINGS.writers[quantization], {}
    for name, tensor in plain.items():
        written = writer.written(name, tuple(tensor.shape)) if "_proj." in name and only in name else None
        if written is None:
            made[name] = tensor
            continue
        pieces = writer.encode(written.form, tensor.float().numpy(), float(largest_with(name, plain)))
        for piece, part, data in zip(written.names, written.parts, pieces, strict=True):
            made[piece] = as_tensor(part, data)
    return made


def largest_with(name: str, plain: Tensors) -> torch.Tensor:
    """The largest magnitude of what serving fuses with a weight: gate and up of an expert."""
    parts = [name.replace("gate_proj", part).replace("up_proj", part) for part in ("gate_proj", "up_proj")]
    return max(plain[part].abs().max() for part in parts)


def as_tensor(part: Part, data: np.ndarray) -> torch.Tensor:
    assert data.size == np.prod(part.shape) * size_of(part.dtype)
    return torch.from_numpy(np.ascontiguousarray(data).reshape(-1)).view(NAMES[part.dtype]).reshape(part.shape)


def written_in(target: Path) -> Tensors:
    return {name: tensor for path in sorted(target.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same(have: Tensors, want: Tensors) -> None:
    assert have.keys() == want.keys()
    for name, tensor in want.items():
        assert (have[name].shape, TAGS[have[name].dtype]) == (tensor.shape, TAGS[tensor.dtype]), name
        assert torch.equal(have[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def to_huggingface(source: dict[str, Any], target: Path, **said: Any) -> dict[str, Any]:
    return {"source": source, "target": {"format": "huggingface", "path": str(target), **said}}


def ranks(hf: Path, root: Path, **layout: Any) -> dict[str, Any]:
    """The same weights as rank files."""
    target = {"format": "mindspeed-llm", "path": str(root), **LAYOUT, **layout}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target}, engine="inline")
    return {"format": "mindspeed-llm", "path": str(root)}


@pytest.mark.parametrize("layout", [{}, {"tensor_parallel_size": 4, "moe_grouped_gemm": False}])
def test_float8_blocks_are_those_of_the_dense_weight_whatever_the_ranks(layout: dict[str, Any], tmp_path: Path) -> None:
    plain = dense()
    hf = save(tmp_path / "bf16", plain, None)
    source = ranks(hf, tmp_path / "ranks", **layout)
    convert(to_huggingface(source, tmp_path / "fp8", config_dir=str(hf), quantization="fp8-block"), engine="inline")
    assert_same(written_in(tmp_path / "fp8"), expected(plain, "fp8-block", "_proj"))
    words = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
    kept = ["lm_head", "model.embed_tokens", "model.layers.0.mlp.gate"]
    assert sorted(words.pop("modules_to_not_convert")) == kept
    assert words == {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}


def test_the_plan_says_what_is_rounded_and_that_transformers_reads_short_blocks_otherwise(tmp_path: Path) -> None:
    hf = save(tmp_path / "bf16", dense(), None)
    plan = make_plan(to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "fp8", quantization="fp8-block"))
    notes = {(note.kind, note.text.partition(",")[0].partition(" of them")[0]) for note in plan.notes}
    count = sum("_proj." in name for name in dense())
    assert ("changed", f"{count} weights are quantised to fp8-block") in notes
    assert ("advice", f"128 does not divide the rows or columns of {count}") in notes


def test_what_was_quantised_comes_back_as_what_was_written(tmp_path: Path) -> None:
    hf = save(tmp_path / "bf16", dense(), None)
    there, again = tmp_path / "fp8", tmp_path / "again"
    convert(to_huggingface({"format": "huggingface", "path": str(hf)}, there, quantization="fp8-block"), engine="inline")
    convert(to_huggingface({"format": "huggingface", "path": str(there)}, again, quantization="fp8-block"), engine="inline")
    assert_same(written_in(again), written_in(there))


@pytest.mark.parametrize("quantization", ["mxfp4", "int4", "nvfp4"])
def test_four_bits_are_for_the_experts_of_a_model_of_experts(quantization: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = {name: torch.randn(shape).bfloat16() for name, shape in even_shapes().items()}
    hf = tmp_path / "bf16"
    save(hf, plain, None)
    (hf / "config.json").write_text(json.dumps(EVEN))
    source = ranks(hf, tmp_path / "ranks")
    convert(to_huggingface(source, tmp_path / "four", config_dir=str(hf), quantization=quantization), engine="inline")
    assert_same(written_in(tmp_path / "four"), expected(plain, quantization, ".experts."))
    words = json.loads((tmp_path / "four" / "config.json").read_text())["quantization_config"]
    assert words["quant_method"] == ("modelopt" if quantization == "nvfp4" else "compressed-tensors")
    assert "model.layers.0.self_attn.q_proj" in words["ignore"]
    assert not any(".experts." in name for name in words["ignore"])


def even_shapes() -> dict[str, tuple[int, ...]]:
    sizes = {136: 160, 144: 192, 72: 96}
    return {name: tuple(sizes.get(size, size) for size in tensor.shape) for name, tensor in dense().items()}


def test_no_task_cuts_through_a_weight_that_is_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dense()
    hf = save(tmp_path / "bf16", plain, None)
    for name, size in (("MOST_BYTES", 30_000), ("FEW_BYTES", 1)):
        monkeypatch.setattr(tasks, name, size)
    job = to_huggingface(ranks(hf, tmp_path / "ranks"), tmp_path / "fp8", config_dir=str(hf), quantization="fp8-block")
    plan = make_plan(job)
    assert len(plan.tasks) > 8
    convert(job, engine="inline")
    assert_same(written_in(tmp_path / "fp8"), expected(plain, "fp8-block", "_proj"))


def test_what_is_not_finite_cannot_be_quantised(tmp_path: Path) -> None:
    plain = dense()
    name = "model.layers.1.mlp.up_proj.weight"
    plain[name][3, 5] = float("inf")
    hf = save(tmp_path / "bf16", plain, None)
    with pytest.raises(SourceError, match=f"{name} has values that are infinite or no numbers"):
        convert(to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "fp8", quantization="fp8-block"), engine="inline")


def test_a_quantised_target_cannot_be_verified_by_the_way_back(tmp_path: Path) -> None:
    hf = save(tmp_path / "bf16", dense(), None)
    job = to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "fp8", quantization="fp8-block")
    with pytest.raises(JobError, match="BF16 to F8_E4M3"):
        convert({**job, "options": {"verify": "roundtrip"}}, engine="inline")


def test_parts_that_serving_fuses_have_one_second_scale_and_no_task_comes_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    only_dense = {name: shape for name, shape in even_shapes().items() if "layers.0." not in name}
    plain = {name.replace("layers.1.", "layers.0."): torch.randn(shape).bfloat16() for name, shape in only_dense.items()}
    plain["model.layers.0.self_attn.k_proj.weight"] *= 7
    hf = save(tmp_path / "bf16", plain, None)
    config = {key: value for key, value in EVEN.items() if "expert" not in key and key != "mlp_only_layers"}
    (hf / "config.json").write_text(
        json.dumps({**config, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_hidden_layers": 1})
    )
    for name, size in (("MOST_BYTES", 30_000), ("FEW_BYTES", 1)):
        monkeypatch.setattr(tasks, name, size)
    job = to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "four", quantization="nvfp4")
    assert len(make_plan(job).tasks) > 4
    convert(job, engine="inline")
    have = written_in(tmp_path / "four")
    at = "model.layers.0."
    second = {
        name: have[at + name + "_proj.weight_scale_2"] for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")
    }
    assert (
        second["self_attn.q"]
        == second["self_attn.k"]
        == second["self_attn.v"]
        == plain[at + "self_attn.k_proj.weight"].float().abs().max() / 2688
    )
    assert second["mlp.gate"] == second["mlp.up"]
    assert have[at + "self_attn.o_proj.weight_scale_2"] == plain[at + "self_attn.o_proj.weight"].float().abs().max() / 2688
    back = tmp_path / "back"
    convert(to_huggingface({"format": "huggingface", "path": str(tmp_path / "four")}, back, quantization="like-source"), engine="inline")
    assert_same(written_in(back), have)


def test_parts_that_serving_fuses_and_training_has_apart_stay_as_they_are_where_they_would_need_one_scale(tmp_path: Path) -> None:
    torch.manual_seed(2)
    at, heads, rank = "model.layers.0.", 4, 32
    shapes = {
        "self_attn.q_a_proj": (32, 64), "self_attn.q_b_proj": (heads * 16, 32), "self_attn.kv_a_proj_with_mqa": (rank + 8, 64),
        "self_attn.kv_b_proj": (heads * 24, rank), "self_attn.o_proj": (64, heads * 16), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }  # fmt: skip
    norms = {"input_layernorm": 64, "post_attention_layernorm": 64, "self_attn.q_a_layernorm": 32, "self_attn.kv_a_layernorm": rank}
    plain = {f"{at}{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}
    plain |= {f"{at}{name}.weight": torch.ones(size).bfloat16() for name, size in norms.items()}
    plain |= {f"{name}.weight": torch.randn(32, 64).bfloat16() for name in ("model.embed_tokens", "lm_head")}
    plain["model.norm.weight"] = torch.ones(64).bfloat16()
    hf = save(tmp_path / "bf16", plain, None)
    config = {
        "architectures": ["MiniCPM3ForCausalLM"], "model_type": "minicpm3", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": 32, "kv_lora_rank": rank,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "tie_word_embeddings": False,
    }  # fmt: skip
    (hf / "config.json").write_text(json.dumps(config))
    for quantization, rounded in (("nvfp4", 6), ("int4", 8)):
        to = tmp_path / quantization
        convert(to_huggingface({"format": "huggingface", "path": str(hf)}, to, quantization=quantization), engine="inline")
        have = written_in(to)
        assert sum(name.endswith(".weight_scale") for name in have) == rounded
        said = json.loads((to / "config.json").read_text())["quantization_config"]["ignore"]
        kept = {f"{at}self_attn.{name}" for name in ("q_a_proj", "kv_a_proj_with_mqa")}
        assert (kept <= set(said)) == (quantization == "nvfp4")
