"""A quantised model in any layout of any format is what its weights, decoded by torch and stored as bf16, become there; and it comes back.

That layouts of bf16 weights are slices of them is what test_any_layout says. Reference for the values, read and written: torch, by each
encoding's own rule. Beside what is drawn, one layout cuts every weight where no block, group or word ends.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from convsvc.conversion import convert
from convsvc.encodings.known import ENCODINGS
from convsvc.plan import tasks
from tests.encodings.test_writing import written_in
from tests.execute.kernels.test_dequantising import E2M1, bytes_of, in_words, nibbles, repeated, words
from tests.roundtrip.any_layout import Drawn, layouts, shapes_of
from tests.roundtrip.test_any_layout import different

Tensors = dict[str, torch.Tensor]
Rng = np.random.Generator
FLOAT8, EXPONENT = torch.float8_e4m3fn, torch.float8_e8m0fnu
# Of a weight [rows, columns]: its pieces by the ends of their names, and its values in float32.
Coded = tuple[Tensors, torch.Tensor]


def real(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0.001, 0.02, shape).astype(np.float32))


def exponents(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(110, 130, shape, np.uint8))


def float8_codes(rng: Rng, rows: int, columns: int) -> torch.Tensor:
    codes = bytes_of(rng, rows, columns)
    codes[codes & 127 == 127] = 0x80  # of NaNs only the sign would be lost
    return codes.view(FLOAT8)


def fp8_block(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = float8_codes(rng, rows, columns), real(rng, -(-rows // 16), -(-columns // 24))
    return {"weight": codes, "weight_scale_inv": scales}, codes.float() * repeated(scales, codes.shape, 16, 24)


def fp8_block_exponents(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = float8_codes(rng, rows, columns), exponents(rng, -(-rows // 16), -(-columns // 24)).view(EXPONENT)
    return {"weight": codes, "weight_scale_inv": scales}, codes.float() * repeated(scales.float(), codes.shape, 16, 24)


def fp8_rows(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = float8_codes(rng, rows, columns), real(rng, rows, 1).bfloat16()
    return {"weight": codes, "weight_scale": scales}, codes.float() * scales.float()


def fp8_tensor(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scale = float8_codes(rng, rows, columns), real(rng, 1)
    return {"weight": codes, "weight_scale": scale, "input_scale": real(rng, 1)}, codes.float() * scale


def mxfp8(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = float8_codes(rng, rows, columns), exponents(rng, rows, -(-columns // 32))
    return {"weight": codes, "weight_scale": scales}, codes.float() * repeated(scales.view(EXPONENT).float(), codes.shape, 1, 32)


def mxfp4(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = bytes_of(rng, rows, columns // 2), exponents(rng, rows, columns // 32)
    names = ("weight_packed", "weight_scale") if rng.integers(2) else ("weight", "weight_scale")
    return dict(zip(names, (codes, scales), strict=True)), E2M1[nibbles(codes)] * repeated(
        scales.view(EXPONENT).float(), (rows, columns), 1, 32
    )


def nvfp4(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales, second = bytes_of(rng, rows, columns // 2), real(rng, rows, columns // 16).mul(2000).to(FLOAT8), real(rng, 1)
    divides = bool(rng.integers(2))
    factors = scales.float() / second if divides else scales.float() * second
    names = ("weight_packed", "weight_scale", "weight_global_scale") if divides else ("weight", "weight_scale", "weight_scale_2")
    return dict(zip(names, (codes, scales, second), strict=True)), E2M1[nibbles(codes)] * repeated(factors, (rows, columns), 1, 16)


def packed_int(rng: Rng, rows: int, columns: int) -> Coded:
    codes, scales = words(rng, rows, columns // 8), real(rng, rows, columns // 32).bfloat16()
    values = (in_words(codes, 4) - 8).float() * repeated(scales.float(), (rows, columns), 1, 32)
    return {"weight_packed": codes, "weight_scale": scales, "weight_shape": torch.tensor([rows, columns])}, values


def packed_int_with_zeros(rng: Rng, rows: int, columns: int) -> Coded:
    pieces, _ = packed_int(rng, rows, columns)
    zeros = words(rng, -(-rows // 8), columns // 32)
    points = in_words(zeros.T.contiguous(), 4).T[:rows]
    numbers = in_words(pieces["weight_packed"], 4) - repeated(points, (rows, columns), 1, 32)
    values = numbers.float() * repeated(pieces["weight_scale"].float(), (rows, columns), 1, 32)
    return pieces | {"weight_zero_point": zeros}, values


def gptq(rng: Rng, rows: int, columns: int) -> Coded:
    groups = columns // 32
    codes, zeros, scales = words(rng, columns // 8, rows), words(rng, groups, rows // 8), real(rng, groups, rows).half()
    of = torch.from_numpy(rng.permutation(np.arange(columns) // 32)).int()  # columns in the order of their activations
    values = (in_words(codes.T.contiguous(), 4) - in_words(zeros, 4)[of.long()].T).float() * scales.float()[of.long()].T
    return {"qweight": codes, "qzeros": zeros, "scales": scales, "g_idx": of}, values


def awq(rng: Rng, rows: int, columns: int) -> Coded:
    order = (0, 4, 1, 5, 2, 6, 3, 7)
    codes, zeros, scales = words(rng, columns, rows // 8), words(rng, columns // 32, rows // 8), real(rng, columns // 32, rows).half()
    numbers = in_words(codes, 4, order) - in_words(zeros, 4, order).repeat_interleave(32, 0)
    return {"qweight": codes, "qzeros": zeros, "scales": scales}, (numbers.float() * scales.float().repeat_interleave(32, 0)).T


def _said(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
# How weights are made, what config.json says, and whether rows and columns may be any number.
KINDS: dict[str, tuple[Callable[[Rng, int, int], Coded], dict[str, Any], bool]] = {
    "float8 in blocks": (fp8_block, {"quant_method": "fp8", "weight_block_size": [16, 24]}, True),
    "float8 in blocks with exponents": (fp8_block_exponents, {"quant_method": "fp8", "weight_block_size": [16, 24]}, True),
    "float8 in rows": (fp8_rows, {"quant_method": "compressed-tensors"}, True),
    "float8 with one scale": (fp8_tensor, {"quant_method": "modelopt"}, True),
    "MXFP8": (mxfp8, {"quant_method": "modelopt"}, True),
    "MXFP4": (mxfp4, {"quant_method": "compressed-tensors"}, False),
    "NVFP4": (nvfp4, {"quant_method": "modelopt"}, False),
    "int4": (packed_int, _said(**INT4, symmetric=True), False),
    "int4 with zero points": (packed_int_with_zeros, _said(**INT4, symmetric=False), False),
    "GPTQ": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}, False),
    "AWQ": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, False),
}


@st.composite
def models(draw: st.DrawFn, ragged: bool) -> Drawn:
    """A model, dense or of experts, that tp 1, 2 and 4 divide; `ragged`: no block divides it."""
    groups, sparse = draw(st.sampled_from([2, 4])), draw(st.booleans())
    sizes, dims = ([36, 44, 60], [10, 14]) if ragged else ([32, 64, 96], [16, 32])
    config: dict[str, Any] = {
        "model_type": "qwen3_moe" if sparse else "qwen3",
        "hidden_size": draw(st.sampled_from(sizes)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_key_value_heads": groups,
        "num_attention_heads": groups * draw(st.sampled_from([1, 2] if not ragged else [1, 3])),
        "head_dim": draw(st.sampled_from(dims)),
        "intermediate_size": draw(st.sampled_from(sizes)),
        "vocab_size": 28,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
    }
    if sparse:
        config |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": draw(st.sampled_from(sizes))}
        config["mlp_only_layers"] = draw(st.lists(st.integers(0, config["num_hidden_layers"] - 1), unique=True, max_size=1))
    family = "qwen3-moe" if sparse else "qwen3"
    tps = tuple(size for size in (1, 2, 4) if groups % size == 0)
    return Drawn(family, config, dict(shapes_of(family, config)), config["num_hidden_layers"], tps, config.get("num_experts", 0))


@st.composite
def targets(draw: st.DrawFn, model: Drawn) -> dict[str, Any]:
    """Rank files of MindSpeed-LLM in any layout, Megatron's of either storage, chunks of torch's, another directory."""
    kind = draw(st.sampled_from(["mindspeed-llm", "mindspeed-llm", "torch_dist", "torch", "dcp", "huggingface"]))
    if kind == "mindspeed-llm":
        layout: dict[str, Any] = draw(layouts(model))
        return {"format": kind, **layout}
    if kind in ("dcp", "huggingface"):
        return {"format": kind} | ({"shards": draw(st.integers(1, 3))} if kind == "dcp" else {})
    sizes = {"tensor_parallel_size": draw(st.sampled_from(model.tps)), "pipeline_parallel_size": draw(st.sampled_from([1, model.layers]))}
    if model.experts:
        sizes |= {"expert_parallel_size": draw(st.sampled_from([1, 2])), "expert_tensor_parallel_size": 1}
    return {"format": "megatron", "storage": kind, **(sizes if kind == "torch" else {})}


def save(directory: Path, tensors: Tensors, config: dict[str, Any]) -> str:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def twins(model: Drawn, rng: Rng, make: Callable[[Rng, int, int], Coded]) -> tuple[Tensors, Tensors]:
    """The model quantised, but for one of its weights, and as torch decodes it."""
    quantised: Tensors = {}
    plain: Tensors = {}
    for name, shape in model.shapes.items():
        if "_proj." not in name or name == "model.layers.0.self_attn.v_proj.weight":
            quantised[name] = plain[name] = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).bfloat16()
            continue
        pieces, values = make(rng, *shape)
        quantised |= {f"{name.removesuffix('weight')}{leaf}": each.contiguous() for leaf, each in pieces.items()}
        plain[name] = values.bfloat16().contiguous()
    return quantised, plain


def files_of(root: Path) -> dict[str, bytes]:
    """What training opens."""
    words = ("published", "conversion", "config.json")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not any(word in path.name for word in words)
    }


def cut_everywhere(ragged: bool, **sizes: int) -> Drawn:
    """A dense layer and one of experts, of which 8 ranks have 4 or 6 rows of a head and 11, 12 or 36 of a block, and as many columns."""
    config: dict[str, Any] = {
        "model_type": "qwen3_moe",
        "hidden_size": 44 if ragged else 96,
        "num_hidden_layers": 2,
        "num_key_value_heads": 8,
        "num_attention_heads": 8,
        "head_dim": 6 if ragged else 4,
        "intermediate_size": 88 if ragged else 96,
        "moe_intermediate_size": 88 if ragged else 96,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [0],
        "vocab_size": 32,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        **sizes,
    }
    return Drawn("qwen3-moe", config, dict(shapes_of("qwen3-moe", config)), 2, (8,), 4)


# Ranks that cut experts, too.
IN_EIGHT = {"format": "mindspeed-llm", "tensor_parallel_size": 8, "moe_grouped_gemm": True}
# Layouts are other ones for every kind, and the same ones in every run.
few = settings(max_examples=1, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def cut_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if weights were larger than a task may be: only then some rows of one are read, and decoded, by themselves."""
    monkeypatch.setattr(tasks, "MOST_BYTES", 5000)


@pytest.mark.not_for_transformers  # which reads few of these forms
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_cut_where_no_block_ends_is_its_decoded_twin_there_and_comes_back_as_it_was(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_tasks(monkeypatch)
    check_read(kind, cut_everywhere(KINDS[kind][2], num_hidden_layers=1), IN_EIGHT, 0)


@pytest.mark.not_for_transformers  # which reads few of these forms
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_in_any_layout_is_its_decoded_twin_there_and_comes_back_as_it_was(kind: str) -> None:
    @few
    @seed(list(KINDS).index(kind))
    @given(data=st.data())
    def drawn(data: st.DataObject) -> None:
        model = data.draw(models(KINDS[kind][2] and data.draw(st.booleans())))
        check_read(kind, model, data.draw(targets(model)), data.draw(st.integers(0, 1000)))

    drawn()


def check_read(kind: str, model: Drawn, target: dict[str, Any], number: int) -> None:
    """The model quantised, and decoded by torch, to the target; and back from there."""
    make, config, _ = KINDS[kind]
    quantised, plain = twins(model, np.random.default_rng(number), make)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = save(root / "quantised", quantised, model.config | {"quantization_config": config})
        dense = save(root / "dense", plain, model.config)
        for path, name in ((source, "a"), (dense, "b")):
            convert({"source": {"format": "huggingface", "path": path}, "target": {**target, "path": str(root / name)}}, engine="inline")
        if target["format"] == "dcp" or target.get("storage") == "torch_dist":  # where chunks lie differs with what lies beside them
            read = {name: value for name, value in target.items() if name in ("format", "storage")}
            back = {"format": "huggingface", "path": str(root / "plain"), "config_dir": dense}
            convert({"source": {**read, "path": str(root / "a")}, "target": back}, engine="inline")
            assert not different(plain, written_in(root / "plain"))
        else:
            assert files_of(root / "a") == files_of(root / "b")
        if target["format"] != "huggingface":
            read = {name: value for name, value in target.items() if name in ("format", "storage")}
            like = {"format": "huggingface", "path": str(root / "back"), "config_dir": source, "quantization": "like-source"}
            convert({"source": {**read, "path": str(root / "a")}, "target": like}, engine="inline")
            assert not different(flat(quantised), flat(written_in(root / "back")))


def test_every_encoding_that_is_read_by_its_names_is_drawn() -> None:
    """But for gpt-oss's form of MXFP4, which stacks experts: tests/golden has it."""
    drawn = {make.__name__.partition("_with")[0] for make, _, _ in KINDS.values()}
    drawn = {"fp8" if name.startswith("fp8") else name for name in drawn}
    assert drawn == {name for name, each in ENCODINGS.items() if each.SIGNS and name != "unread"}


def fp8_written(values: torch.Tensor, largest: torch.Tensor) -> Tensors:
    """amax / 448 of blocks of 128 x 128 (Megatron-Bridge, quantize_fp8_e4m3fn_like_scale)."""
    scales = torch.stack([torch.stack([each.abs().max() for each in rows.split(128, 1)]) for rows in values.split(128)]) / 448
    return {"": (values / repeated(scales, values.shape, 128, 128)).to(FLOAT8), "_scale_inv": scales}


def nearest_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Codes to nearest, ties to the even code, two a byte, the low one first."""
    size = values.abs()
    codes = sum((size > bound).byte() for bound in (0.25, 1.25, 2.5, 5.0)) + sum((size >= bound).byte() for bound in (0.75, 1.75, 3.5))
    codes = codes | (values < 0).byte() << 3
    return codes[:, 0::2] | codes[:, 1::2] << 4


def mxfp4_written(values: torch.Tensor, largest: torch.Tensor) -> Tensors:
    """2^ceil(log2(amax / 6)) of 32 columns (triton_kernels, numerics_details/mxfp.py)."""
    powers = (values.unflatten(1, (-1, 32)).abs().amax(-1).double() / 6).log2().ceil()
    codes = nearest_e2m1(values / (2**powers).float().repeat_interleave(32, 1))
    return {"_packed": codes, "_scale": (powers + 127).byte()}


def int4_written(values: torch.Tensor, largest: torch.Tensor) -> Tensors:
    """amax / 7 of 32 columns, stored as bf16 after the codes are chosen (Megatron-Bridge, quantize_to_int4)."""
    scales = values.unflatten(1, (-1, 32)).abs().amax(-1) / 7
    codes = (values / scales.repeat_interleave(32, 1)).round().clamp(-8, 7).long() + 8
    packed = (codes.unflatten(1, (-1, 8)) << torch.arange(0, 32, 4)).sum(-1)
    shape = torch.tensor(values.shape, dtype=torch.int32)
    return {"_packed": packed.to(torch.uint32).view(torch.int32), "_scale": scales.bfloat16(), "_shape": shape}


def nvfp4_written(values: torch.Tensor, largest: torch.Tensor) -> Tensors:
    """amax / (6 x 448) of what is served as one, and of 16 columns amax / 6 over that as float8 (ModelOpt, NVFP4QTensor.quantize)."""
    second = largest / (6 * 448)
    scales = (values.unflatten(1, (-1, 16)).abs().amax(-1) / (6 * second)).clamp(2**-9, 448).to(FLOAT8)
    codes = nearest_e2m1(values / (scales.float() * second).repeat_interleave(16, 1))
    return {"": codes, "_scale": scales, "_scale_2": second}


WRITTEN: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], Tensors], bool]] = {
    "fp8-block": (fp8_written, True),
    "mxfp4": (mxfp4_written, False),
    "int4": (int4_written, False),
    "nvfp4": (nvfp4_written, False),
}


@pytest.mark.parametrize("quantization", WRITTEN)
def test_of_ranks_that_cut_every_block_what_is_quantised_is_the_whole_models_as_torch_quantises_it(quantization: str) -> None:
    sizes = {"head_dim": 18} if WRITTEN[quantization][1] else {}
    check_written(quantization, cut_everywhere(False, hidden_size=160, intermediate_size=288, **sizes), IN_EIGHT, 0)


@pytest.mark.parametrize("quantization", WRITTEN)
def test_whatever_the_ranks_were_what_is_quantised_from_them_is_what_torch_quantises(quantization: str) -> None:
    @few
    @seed(list(WRITTEN).index(quantization))
    @given(data=st.data())
    def drawn(data: st.DataObject) -> None:
        model = data.draw(models(WRITTEN[quantization][1] and data.draw(st.booleans())))
        check_written(quantization, model, data.draw(targets(model)), data.draw(st.integers(0, 1000)))

    drawn()


def as_torch_writes(plain: Tensors, quantization: str) -> Tensors:
    """The linear layers' weights quantised; in four bits, of a model of experts, theirs alone."""
    made: Tensors = {}
    only = ".experts." if quantization != "fp8-block" and any(".experts." in name for name in plain) else "_proj."
    for name, tensor in plain.items():
        if only not in name or "_proj." not in name:
            made[name] = tensor
            continue
        pieces = WRITTEN[quantization][0](tensor.float(), served_as_one(name, plain))
        made |= {f"{name}{end}": piece for end, piece in pieces.items()}
    return made


def served_as_one(name: str, plain: Tensors) -> torch.Tensor:
    """The largest magnitude of what serving fuses with a weight: queries, keys and values; gate and up."""
    fused = next((parts for parts in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")) if name.split(".")[-2] in parts), None)
    names = [name.replace(name.split(".")[-2], part) for part in fused] if fused else [name]
    return torch.stack([plain[each].float().abs().max() for each in names]).max()


def check_written(quantization: str, model: Drawn, target: dict[str, Any], number: int) -> None:
    """The model to the target's ranks, and from there quantised; straight from the whole model it is the same, config.json, too."""
    rng = np.random.default_rng(number)
    plain = {name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)).bfloat16() for name, shape in model.shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dense = save(root / "dense", plain, model.config)
        ranks = {**target, "path": str(root / "ranks")}
        convert({"source": {"format": "huggingface", "path": dense}, "target": ranks}, engine="inline")
        read = {name: value for name, value in ranks.items() if name in ("format", "storage", "path")}
        for name, side in (("direct", {"format": "huggingface", "path": dense}), ("through", read)):
            to = {"format": "huggingface", "path": str(root / name), "config_dir": dense, "quantization": quantization}
            convert({"source": side, "target": to}, engine="inline")
        want = as_torch_writes(plain, quantization)
        assert not different(flat(want), flat(written_in(root / "direct")))
        assert not different(flat(want), flat(written_in(root / "through")))
        assert (root / "through" / "config.json").read_bytes() == (root / "direct" / "config.json").read_bytes()


def flat(tensors: Tensors) -> Tensors:
    """For a scalar's bytes."""
    return {name: tensor.reshape(-1) for name, tensor in tensors.items()}
