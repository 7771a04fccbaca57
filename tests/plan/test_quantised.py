"""A quantised checkpoint becomes what its dequantised twin becomes; one that cannot be understood is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, JobError, PlanError, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 136,
    "intermediate_size": 144,
    "moe_intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 20,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 64,
    "mlp_only_layers": [1],
    "tie_word_embeddings": False,
}
QUANTISATION = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
LAYOUT = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}
Tensors = dict[str, torch.Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    hidden, heads, groups, dim = 136, 8, 4, 20
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (64, hidden),
        "lm_head.weight": (64, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(2):
        at = f"model.layers.{layer}."
        sizes |= {at + f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        sizes |= {at + f"self_attn.{name}_norm.weight": (dim,) for name in "qk"}
        projections = (("q", heads), ("k", groups), ("v", groups))
        sizes |= {at + f"self_attn.{name}_proj.weight": (count * dim, hidden) for name, count in projections}
        sizes[at + "self_attn.o_proj.weight"] = (hidden, heads * dim)
        blocks = [(f"{at}mlp.", 144)] if layer else [(f"{at}mlp.experts.{expert}.", 72) for expert in range(4)]
        for prefix, ffn in blocks:
            sizes |= {prefix + f"{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
            sizes[prefix + "down_proj.weight"] = (hidden, ffn)
    sizes["model.layers.0.mlp.gate.weight"] = (4, hidden)
    return sizes


# How a scale is called, how many rows and columns share it (none: all), and its shape.
FORMS: dict[str, tuple[str, tuple[int, int] | None, tuple[int, ...] | None]] = {
    "blocks": ("_scale_inv", (128, 128), None),
    "blocks of compressed-tensors": ("_scale", (128, 128), None),
    "rows": ("_scale", (1, 4096), None),
    "rows in a list": ("_scale", (1, 4096), (-1,)),
    "one number": ("_scale", None, ()),
    "a list of one": ("_scale", None, (1,)),
    "one number, called a block's": ("_scale_inv", None, ()),
}


def twins(form: str = "blocks") -> tuple[Tensors, Tensors]:
    """Random weights, every projection quantised; and the same dequantised by torch."""
    suffix, shared, scale_shape = FORMS[form]
    torch.manual_seed(0)
    quantised: Tensors = {}
    plain: Tensors = {}
    for name, shape in shapes().items():
        if not name.endswith("_proj.weight"):
            quantised[name] = plain[name] = torch.randn(shape).bfloat16()
            continue
        codes = torch.randn(shape).mul(100).to(torch.float8_e4m3fn)
        rows, columns = shared or shape
        scales = torch.rand(-(-shape[0] // rows), -(-shape[1] // columns)) + 0.001
        factors = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[: shape[0], : shape[1]]
        quantised |= {name: codes, name + suffix: scales if scale_shape is None else scales.reshape(scale_shape)}
        plain[name] = (codes.float() * factors).bfloat16()
    return quantised, plain


def save(directory: Path, tensors: Tensors, quantization: dict[str, Any] | None) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG | ({"quantization_config": quantization} if quantization else {})))
    return directory


def job(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    return {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), **LAYOUT},
        "options": options,
    }


def rank_tensors(root: Path) -> dict[str, Tensors]:
    return {str(path.relative_to(root)): torch.load(path, weights_only=False)["model"] for path in sorted(root.rglob("*.pt"))}


@pytest.mark.parametrize("form", FORMS)
def test_every_rank_holds_what_the_dequantised_checkpoint_gives_it(form: str, tmp_path: Path) -> None:
    quantised, plain = twins(form)
    fp8, bf16 = save(tmp_path / "fp8", quantised, QUANTISATION), save(tmp_path / "bf16", plain, None)
    convert(job(fp8, tmp_path / "a"), engine="inline")
    convert(job(bf16, tmp_path / "b"), engine="inline")
    have, want = rank_tensors(tmp_path / "a"), rank_tensors(tmp_path / "b")
    assert have.keys() == want.keys()
    assert len(want) == 8
    for rank, tensors in want.items():
        assert have[rank].keys() == tensors.keys()
        assert all(torch.equal(have[rank][name].view(torch.int16), tensor.view(torch.int16)) for name, tensor in tensors.items())


def test_the_way_back_is_bf16_and_says_so(tmp_path: Path) -> None:
    quantised, plain = twins()
    fp8 = save(tmp_path / "fp8", quantised, QUANTISATION)
    convert(job(fp8, tmp_path / "there"), engine="inline")
    back = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(fp8)}
    convert({"source": {"format": "mindspeed-llm", "path": str(tmp_path / "there")}, "target": back}, engine="inline")
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    have = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert have.keys() == plain.keys()
    assert all(torch.equal(have[name].view(torch.int16), tensor.view(torch.int16)) for name, tensor in plain.items())
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())


def test_the_plan_reads_float8_and_names_the_change(tmp_path: Path) -> None:
    quantised, _ = twins()
    plan = make_plan(job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a"))
    assert any("dequantised to bf16" in note.text and "128 x 128" in note.text for note in plan.notes)
    assert {tensor.dtype for tensor in plan.target_tensors if not tensor.name.startswith("scales.")} == {"BF16"}


def test_a_layer_that_is_left_out_leaves_its_scales_out(tmp_path: Path) -> None:
    quantised, _ = twins()
    one_stage = job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a", num_layers=1)
    one_stage["target"]["pipeline_parallel_size"] = 1
    assert not any("layers.1." in tensor.name for tensor in make_plan(one_stage).source_tensors)


def test_what_was_dequantised_cannot_be_verified_by_the_way_back_without_its_scales(tmp_path: Path) -> None:
    quantised, _ = twins()
    source = save(tmp_path / "fp8", quantised, QUANTISATION)
    with pytest.raises(JobError, match="F8_E4M3 to BF16"):
        convert(job(source, tmp_path / "a", verify="roundtrip", carry_scales=False), engine="inline")


def test_scales_of_activations_and_of_the_cache_are_ignored_by_name(tmp_path: Path) -> None:
    quantised, _ = twins("one number")
    at = "model.layers.0.self_attn."
    beside = ("q_proj.input_scale", "o_proj.activation_scale", "k_proj.k_scale", "v_proj.v_scale", "attn.kv_scale")
    quantised |= {at + name: torch.tensor(0.5) for name in beside}
    plan = make_plan(job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a"))
    assert any(note.kind == "ignored" and note.text.startswith("5 scales of activations") for note in plan.notes)


def test_a_weight_that_is_called_as_if_it_scaled_a_tensor_that_is_not_there_is_a_weight(tmp_path: Path) -> None:
    quantised, _ = twins("one number")
    at = "model.layers.0."
    quantised |= {at + "mlp.correct_output_scale": torch.ones(4), at + "self_attn.q_proj_input_scale": torch.ones(1)}
    quantised[at + "self_attn.q_proj"] = torch.ones(2, 2)
    with pytest.raises(PlanError) as refused:
        make_plan(job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a"))
    assert f"left over {at}mlp.correct_output_scale" in str(refused.value)
    assert "left over model.layers.0.self_attn.q_proj_input_scale" not in " ".join(str(refused.value).split())


def test_a_matrix_that_is_called_a_scale_of_activations_is_not_ignored(tmp_path: Path) -> None:
    quantised, _ = twins("one number")
    quantised["model.layers.0.self_attn.q_proj.input_scale"] = torch.ones(4, 4)
    with pytest.raises(PlanError, match=r"left over model\.layers\.0\.self_attn\.q_proj\.input_scale"):
        make_plan(job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a"))


@pytest.mark.parametrize(("form", "what"), [("blocks", "128 x 128 block"), ("rows", "row"), ("one number", "tensor")])
def test_inspect_shows_that_a_checkpoint_is_quantised(form: str, what: str, tmp_path: Path) -> None:
    quantised, _ = twins(form)
    about = inspect_checkpoint(str(save(tmp_path / "fp8", quantised, QUANTISATION)))
    assert about["complete"] is True
    assert about["quantised"] == {
        "tensors": (count := sum("_scale" in name for name in quantised)),
        "encodings": {"float8": count},
        "one_scale_for": what,
    }


def one_by_one(tensors: Tensors) -> None:
    tensors[f"{NAME}_scale_inv"] = torch.ones(1, 1)


Damage = Callable[[Tensors], Any]
NAME = "model.layers.0.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Damage, type[ConvsvcError], str]] = {
    "a scale is missing": (lambda tensors: tensors.pop(f"{NAME}_scale_inv"), SourceError, "1 float8 tensors have no scale"),
    "a weight is missing": (lambda tensors: tensors.pop(NAME), SourceError, "q_proj.weight, which is not there"),
    "a scale has another shape": (
        lambda tensors: tensors.update({f"{NAME}_scale_inv": torch.ones(1, 1)}),
        PlanError,
        r"expected F32 \[2, 2\]",
    ),
    "a scaled weight is bf16": (lambda tensors: tensors.update({NAME: tensors[NAME].bfloat16()}), PlanError, "expected float8"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_checkpoint_is_refused_where(what: str, tmp_path: Path) -> None:
    damage, error, message = DAMAGES[what]
    quantised, _ = twins()
    damage(quantised)
    with pytest.raises(error) as raised:
        make_plan(job(save(tmp_path / "fp8", quantised, QUANTISATION), tmp_path / "a"))
    assert raised.match(message)


def test_another_block_size_is_taken_from_the_configuration(tmp_path: Path) -> None:
    quantised, _ = twins()
    source = save(tmp_path / "fp8", quantised, QUANTISATION | {"weight_block_size": [64, 128]})
    with pytest.raises(PlanError, match=r"expected F32 \[2, 2\], found F32 \[1, 2\]"):
        make_plan(job(source, tmp_path / "a"))
    (source / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"weight_block_size": [128]}}))
    with pytest.raises(SourceError, match="weight_block_size"):
        make_plan(job(source, tmp_path / "a"))
