"""What is broken about a quantised weight ends in words that name the tensor, whatever its encoding; what is only odd is decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.conversion import convert
from convsvc.encodings.known import ENCODINGS
from convsvc.errors import ConvsvcError, SourceError
from tests.encodings.weights import Stored, decoded

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
ROWS, COLUMNS = 96, 128
BYTE, FLOAT8, EXPONENT = torch.uint8, torch.float8_e4m3fn, torch.float8_e8m0fnu
BF16, F16, F32, I32 = torch.bfloat16, torch.float16, torch.float32, torch.int32
DTYPES = (F32, BF16, F16, BYTE, torch.int8, I32, torch.int64, FLOAT8, torch.float8_e5m2, EXPONENT)


def codes(*shape: int) -> torch.Tensor:
    return torch.arange(int(torch.Size(shape).numel())).remainder(113).to(BYTE).reshape(shape)


def words(*shape: int) -> torch.Tensor:
    return torch.arange(int(torch.Size(shape).numel())).mul(0x1234567).remainder(0x66666666).to(I32).reshape(shape)


def factors(*shape: int) -> torch.Tensor:
    return torch.arange(int(torch.Size(shape).numel())).remainder(29).float().add(1).div(1024).reshape(shape)


def compressed(**weights: Any) -> Config:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def int4(**further: torch.Tensor) -> Tensors:
    shape = torch.tensor([ROWS, COLUMNS])
    return {"weight_packed": words(ROWS, 16), "weight_scale": factors(ROWS, 4).to(BF16), "weight_shape": shape, **further}


SPELLINGS: dict[str, tuple[Tensors, Config]] = {
    "float8 in blocks": (
        {"weight": codes(ROWS, COLUMNS).view(FLOAT8), "weight_scale_inv": factors(2, 2)},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
    ),
    "float8 in blocks, DeepSeek-V4": (
        {"weight": codes(ROWS, COLUMNS).view(FLOAT8), "scale": codes(2, 2).view(EXPONENT)},
        {"quant_method": "fp8", "weight_block_size": [64, 64], "scale_fmt": "ue8m0"},
    ),
    "float8 in rows": (
        {"weight": codes(ROWS, COLUMNS).view(FLOAT8), "weight_scale": factors(ROWS, 1)},
        compressed(num_bits=8, type="float", strategy="channel"),
    ),
    "float8, one scale": (
        {"weight": codes(ROWS, COLUMNS).view(FLOAT8), "weight_scale": factors(1)},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
    ),
    "MXFP8": (
        {"weight": codes(ROWS, COLUMNS).view(FLOAT8), "weight_scale": codes(ROWS, 4)},
        {"quant_method": "modelopt", "quant_algo": "MXFP8"},
    ),
    "MXFP4, gpt-oss": (
        {"down_proj_blocks": codes(2, ROWS, 4, 16), "down_proj_scales": codes(2, ROWS, 4)},
        {"quant_method": "mxfp4"},
    ),
    "MXFP4, DeepSeek-V4": (
        {"weight": codes(ROWS, 64).view(torch.int8), "scale": codes(ROWS, 4).view(EXPONENT)},
        {"quant_method": "fp8", "expert_dtype": "fp4"},
    ),
    "MXFP4, ModelOpt": ({"weight": codes(ROWS, 64), "weight_scale": codes(ROWS, 4)}, {"quant_method": "modelopt"}),
    "MXFP4, compressed-tensors": (
        {"weight_packed": codes(ROWS, 64), "weight_scale": codes(ROWS, 4)},
        compressed(num_bits=4, type="float", strategy="group", group_size=32),
    ),
    "NVFP4, ModelOpt": (
        {"weight": codes(ROWS, 64), "weight_scale": codes(ROWS, 8).view(FLOAT8), "weight_scale_2": factors(1)},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    ),
    "NVFP4, compressed-tensors": (
        {"weight_packed": codes(ROWS, 64), "weight_scale": codes(ROWS, 8).view(FLOAT8), "weight_global_scale": factors(1)},
        compressed(num_bits=4, type="float", strategy="tensor_group", group_size=16),
    ),
    "int4": (int4(), compressed(num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)),
    "int4 with zero points": (
        int4(weight_zero_point=words(12, 4)),
        compressed(num_bits=4, type="int", strategy="group", group_size=32, symmetric=False),
    ),
    "GPTQ": (
        {
            "qweight": words(16, ROWS),
            "qzeros": words(4, 12),
            "scales": factors(4, ROWS).to(F16),
            "g_idx": torch.arange(128).div(32).to(I32),
        },
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"},
    ),
    "AWQ": (
        {"qweight": words(COLUMNS, 12), "qzeros": words(4, 12), "scales": factors(4, ROWS).to(F16)},
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
    ),
}
# What is odd and means something: floats of another width or kind are factors and codes as well, powers of two have two dtypes, a last
# block may be short, one number may lie as a list or not.
FACTORS = "F32 BF16 F16"
FINE: dict[str, dict[str, str]] = {
    "float8 in blocks": {"weight_scale_inv": f"{FACTORS} F8_E8M0", "weight": "F8_E5M2", "short": "weight"},
    "float8 in blocks, DeepSeek-V4": {"scale": FACTORS, "weight": "F8_E5M2", "short": "weight"},
    "float8 in rows": {"weight_scale": f"{FACTORS} F8_E8M0", "weight": "F8_E5M2", "wide": "weight", "flat": "weight_scale"},
    "float8, one scale": {"weight_scale": f"{FACTORS} F8_E8M0", "weight": "F8_E5M2", "any": "weight"},
    "MXFP8": {"weight_scale": "F8_E8M0", "short": "weight"},
    "MXFP4, gpt-oss": {"down_proj_scales": "F8_E8M0"},
    "MXFP4, DeepSeek-V4": {"weight": "U8", "scale": "U8"},
    "MXFP4, ModelOpt": {"weight": "I8", "weight_scale": "F8_E8M0"},
    "MXFP4, compressed-tensors": {"weight_packed": "I8", "weight_scale": "F8_E8M0"},
    "int4": {"weight_scale": f"{FACTORS} F8_E8M0"},
    "int4 with zero points": {"weight_scale": f"{FACTORS} F8_E8M0"},
    "GPTQ": {"scales": FACTORS},
    "AWQ": {"scales": FACTORS},
}
TAGS = dict(zip(DTYPES, ["F32", "BF16", "F16", "U8", "I8", "I32", "I64", "F8_E4M3", "F8_E5M2", "F8_E8M0"], strict=True))


def named(tensors: Tensors) -> Tensors:
    return {f"m.{name}": tensor for name, tensor in tensors.items()}


def attempt(tensors: Tensors, config: Config | None) -> torch.Tensor:
    """The values; raises what a conversion does, of a piece that is left to the model's tensors, too."""
    stored, weight = Stored.of(named(tensors)), "m.down_proj" if any("proj" in name for name in tensors) else "m.weight"
    found = stored.checkpoint(config, "F32").found
    left = [name for _, name in found if name != weight]
    assert not left, f"{left} are no weights, and nothing says so"
    return decoded(stored, weight, "F32", config)


def refused(tensors: Tensors, config: Config | None, name: str) -> None:
    """Nothing is decoded; the error names the tensor, what was expected or lacks, and what to do."""
    with pytest.raises(ConvsvcError) as caught:
        attempt(tensors, config)
    said = str(caught.value)
    assert name in said or re.search(r"\bm(\.\w+|: expected)", said)
    assert any(word in said for word in ("expected", "has no ", "have no scale", "is not there", "without a scale", "is not read"))
    assert caught.value.do
    assert "\n" not in caught.value.message


EACH_PIECE = [pytest.param(kind, piece, id=f"{kind}: {piece}") for kind, (tensors, _) in SPELLINGS.items() for piece in tensors]


@pytest.mark.parametrize("kind", SPELLINGS)
def test_as_it_is_published_every_spelling_is_decoded(kind: str) -> None:
    tensors, config = SPELLINGS[kind]
    values = attempt(tensors, config)
    assert torch.isfinite(values).all()
    assert values.numel() == ROWS * COLUMNS * (2 if "gpt-oss" in kind else 1)
    assert torch.equal(attempt(tensors, config | {"unknown": {"field": [1, None]}, "ignore": ["re:.*lm_head.*", "lm_head"]}), values)


def test_every_encoding_that_is_read_is_tried() -> None:
    tried = set()
    for tensors, config in SPELLINGS.values():
        found = Stored.of(named(tensors)).checkpoint(config).found.values()
        tried |= {each.encoded.form.kind for each in found if each.encoded is not None}
    assert tried == {name for name, each in ENCODINGS.items() if each.SIGNS and name != "unread"}


@pytest.mark.parametrize(("kind", "piece"), EACH_PIECE)
def test_a_piece_that_is_missing_is_named(kind: str, piece: str) -> None:
    tensors, config = SPELLINGS[kind]
    rest = {name: each for name, each in tensors.items() if name != piece}
    if piece == "weight" and "scale" in tensors:  # a lone `.scale` may be a norm's weight: the model's tensors tell, see below
        assert not any(each.encoded for each in Stored.of(named(rest)).checkpoint(config).found.values())
    else:
        refused(rest, config, f"m.{piece}")


def as_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(tensor.shape).to(dtype)


@pytest.mark.parametrize(("kind", "piece"), EACH_PIECE)
def test_a_piece_of_another_dtype_is_decoded_where_that_means_something_and_else_refused(kind: str, piece: str) -> None:
    tensors, config = SPELLINGS[kind]
    fine = FINE.get(kind, {}).get(piece, "").split()
    for dtype in DTYPES:
        other = tensors | {piece: as_dtype(tensors[piece], dtype)}
        if dtype == tensors[piece].dtype:
            continue
        if TAGS[dtype] in fine:
            assert attempt(other, config).numel()
        elif piece == "weight" and "scale" in tensors and dtype not in (BYTE, torch.int8, FLOAT8, torch.float8_e5m2):
            with pytest.raises(AssertionError, match="scale"):  # left to the model's tensors, as above
                attempt(other, config)
        elif piece == "weight_shape" and dtype == I32:
            assert "weight_shape" in message(other, config)  # its numbers are others
        else:
            refused(other, config, f"m.{piece}")


def message(tensors: Tensors, config: Config | None) -> str:
    with pytest.raises(ConvsvcError) as caught:
        attempt(tensors, config)
    return str(caught.value)


def resized(tensor: torch.Tensor) -> Iterator[tuple[str, int, torch.Tensor]]:
    """The tensor with one item less or more along an axis, twice as long, and as a list."""
    for axis in range(tensor.ndim):
        raw = tensor.view(BYTE) if tensor.dtype in (FLOAT8, EXPONENT) else tensor
        size = raw.shape[axis]
        for what, taken in (("less", range(size - 1)), ("more", [*range(size), 0]), ("twice", [*range(size)] * 2)):
            made = raw.index_select(axis, torch.tensor(list(taken), dtype=torch.long)).contiguous()
            yield what, axis, made.view(tensor.dtype) if raw is not tensor else made
    if tensor.ndim > 1:
        yield "flat", 0, tensor.reshape(-1)


def is_fine(kind: str, piece: str, what: str, axis: int) -> bool:
    fine = FINE.get(kind, {})
    if fine.get("any") == piece and what != "flat":
        return True
    if fine.get("wide") == piece and axis == 1:
        return True
    if fine.get("flat") == piece and what == "flat":
        return True
    if fine.get("short") == piece and "block" in kind:
        return what == "less" or (what, axis) == ("more", 0)
    return fine.get("short") == piece and (what, axis) == ("less", 1)


@pytest.mark.parametrize(("kind", "piece"), EACH_PIECE)
def test_a_piece_of_another_shape_is_refused_unless_a_block_is_only_short(kind: str, piece: str) -> None:
    tensors, config = SPELLINGS[kind]
    for what, axis, other in resized(tensors[piece]):
        damaged = tensors | {piece: other}
        if is_fine(kind, piece, what, axis):
            assert attempt(damaged, config).numel()
        else:
            refused(damaged, config, f"m.{piece}")


SURPLUS: dict[str, Callable[[], torch.Tensor]] = {
    "weight_zero_point": lambda: torch.zeros(ROWS, 1, dtype=torch.int8),
    "weight_g_idx": lambda: torch.zeros(COLUMNS, dtype=I32),
    "weight_shape": lambda: torch.tensor([ROWS, COLUMNS]),
    "weight_scale": lambda: factors(ROWS, 1),
    "weight_scale_inv": lambda: factors(2, 2),
    "weight_global_scale": lambda: factors(1),
    "pre_quant_scale": lambda: factors(COLUMNS),
    "qzeros": lambda: words(4, 12),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_a_piece_too_many_is_refused_by_name(kind: str) -> None:
    tensors, config = SPELLINGS[kind]
    for piece, make in SURPLUS.items():
        if piece not in tensors:
            assert f"m.{piece}" in message(tensors | {piece: make()}, config) or "m.weight" in message(tensors | {piece: make()}, config)


@pytest.mark.parametrize("piece", ["weight_scale", "weight_scale_inv", "weight_scale_2", "weight_zero_point", "weight_packed"])
def test_a_piece_beside_a_weight_that_is_not_quantised_says_what_it_was_found_with(piece: str) -> None:
    said = message({"weight": factors(ROWS, COLUMNS).to(BF16), piece: factors(ROWS, 1)}, {"quant_method": "fp8"})
    assert f"m.{piece}" in said or piece == "weight_scale_inv"
    assert f"m.weight BF16 [{ROWS}, {COLUMNS}]" in said or "expected float8 with two axes, found BF16" in said


CONTRADICTIONS: dict[str, tuple[str, Config, str]] = {
    "blocks of another size": ("float8 in blocks", {"weight_block_size": [32, 64]}, r"expected F32 \[3, 2\], found F32 \[2, 2\]"),
    "blocks of one size": ("float8 in blocks", {"weight_block_size": 64}, "weight_block_size is 64; it must be two numbers"),
    "blocks of no rows": ("float8 in blocks", {"weight_block_size": [0, 64]}, "it must be two numbers"),
    "no words about blocks": ("float8 in blocks", {}, r"expected F32 \[1, 1\], found F32 \[2, 2\]"),
    "groups of 64": (
        "int4",
        compressed(num_bits=4, type="int", group_size=64),
        "expected groups of 64 for 128 columns of 4 bits.*found 4 factors",
    ),
    "one factor a row": ("int4", compressed(num_bits=4, type="int", strategy="channel"), "expected one factor for 128 columns"),
    "other bits": ("int4", compressed(num_bits=8, type="int", group_size=32), "expected groups of 32 for 64 columns of 8 bits"),
    "bits of two words": ("int4", compressed(num_bits=3, type="int", group_size=32), "integers of 3 bits, which is not read"),
    "not symmetric": (
        "int4",
        compressed(num_bits=4, group_size=32, symmetric=False),
        "has no m.weight_zero_point, and quantization_config",
    ),
    "symmetric": (
        "int4 with zero points",
        compressed(num_bits=4, group_size=32, symmetric=True),
        r"m.weight_zero_point: expected none, as quantization_config says symmetric, found I32 \[12, 4\]",
    ),
    "GPTQ of larger groups": ("GPTQ", {"bits": 4, "group_size": 64}, "expected groups of 64 in 128 inputs.*found 4 groups"),
    "GPTQ without groups": ("GPTQ", {"bits": 4, "group_size": -1}, "expected groups of -1 in 128 inputs.*found 4 groups"),
    "GPTQ of other bits": (
        "GPTQ",
        {"bits": 8, "group_size": 32},
        r"expected qzeros I32 \[4, 24\], scales F16 \[4, 96\], g_idx I32 \[64\] of 8 bits, found qzeros I32 \[4, 12\]",
    ),
    "GPTQ of three bits": ("GPTQ", {"bits": 3, "group_size": 32}, "GPTQ of 3 bits, which is not read"),
    "GPTQ as a kernel has it": ("GPTQ", {"bits": 4, "checkpoint_format": "marlin"}, "GPTQ in the format 'marlin', which is not read"),
    "AWQ of larger groups": ("AWQ", {"bits": 4, "group_size": 64}, "expected groups of 64 in 128 inputs.*found 4 groups"),
    "AWQ as a kernel has it": ("AWQ", {"bits": 4, "version": "gemv"}, "AWQ of 4 bits, version gemv, which is not read"),
    "rotated while it computes": (
        "float8 in rows",
        {"transform_config": {"config_groups": {"R3": {"type": "hadamard", "apply": [{"targets": ["Linear"], "location": "input"}]}}}},
        r"transforms while the model computes \(transform_config, input\), which is not read",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_words_that_the_tensors_contradict_are_refused(what: str) -> None:
    kind, config, said = CONTRADICTIONS[what]
    with pytest.raises(ConvsvcError, match=f"(?s){said}"):
        attempt(SPELLINGS[kind][0], config)


@pytest.mark.parametrize("kind", [kind for kind in SPELLINGS if "block" not in kind])
def test_without_words_the_tensors_tell(kind: str) -> None:
    tensors, config = SPELLINGS[kind]
    if kind == "GPTQ":
        config = {name: value for name, value in config.items() if name != "checkpoint_format"}
        tensors = tensors | {"qzeros": tensors["qzeros"] & 0x77777777}
    assert torch.equal(attempt(tensors, None), attempt(tensors, config))


def test_what_is_said_of_activations_and_of_the_cache_is_not_taken_for_the_weights() -> None:
    """W4A8 with a float8 cache, its words in the order of the alphabet, as Kimi and GLM are published by others."""
    tensors, config = SPELLINGS["int4"]
    (group,) = config["config_groups"].values()
    others = {"num_bits": 8, "type": "int", "group_size": None, "symmetric": False, "strategy": "token", "dynamic": True}
    said = {"config_groups": {"g": {"input_activations": others, **group}}, "kv_cache_scheme": others | {"type": "float"}}
    assert torch.equal(attempt(tensors, said), attempt(tensors, config))


def test_of_layers_with_other_bits_each_is_what_its_groups_say() -> None:
    tensors, config = SPELLINGS["int4"]
    eight = {"weight_packed": words(ROWS, 32), "weight_scale": factors(ROWS, 4).to(BF16), "weight_shape": torch.tensor([ROWS, COLUMNS])}
    groups = {"a": {"weights": {"num_bits": 8, "type": "int", "group_size": 32}}, "b": {"weights": {"num_bits": 4, "group_size": 32}}}
    both = {"quant_method": "compressed-tensors", "config_groups": groups}
    assert torch.equal(attempt(tensors, both), attempt(tensors, config))
    assert torch.equal(attempt(eight, both), attempt(eight, compressed(num_bits=8, group_size=32)))
    rows = eight | {"weight_scale": factors(ROWS, 1).to(BF16)}
    for group in groups.values():
        group["weights"] |= {"group_size": None, "strategy": "channel"}
    assert "may be of 4 or 8 bits" in message(rows, both)


def test_transforms_that_lie_in_the_weights_are_none_while_the_model_computes() -> None:
    """As Laguna-XS.2 is published: a rotation of the residual stream that cancels out."""
    tensors, config = SPELLINGS["float8 in rows"]
    apply = [
        {"targets": ["re:.*o_proj$"], "location": "weight_output"},
        {"targets": ["Linear"], "location": "weight_input", "inverse": True},
    ]
    rotated = config | {"transform_config": {"config_groups": {"R1": {"type": "hadamard", "apply": apply}}}, "sparsity_config": {}}
    assert torch.equal(attempt(tensors, rotated), attempt(tensors, config))


@pytest.mark.parametrize("kind", [kind for kind in SPELLINGS if "gpt-oss" not in kind])
def test_a_weight_of_no_rows_has_no_values(kind: str) -> None:
    tensors, config = SPELLINGS[kind]
    along = {"GPTQ": {"qweight": 1, "qzeros": 1, "scales": 1}, "AWQ": {"qweight": 1, "qzeros": 1, "scales": 1}}.get(kind)
    one = {"weight_scale_2", "weight_global_scale", "weight_shape", "g_idx"} | ({"weight_scale"} if kind == "float8, one scale" else set())
    empty = {
        name: each if name in one else each.reshape(-1).view(BYTE)[:0].view(each.dtype).reshape(
            [0 if axis == (along or {}).get(name, 0) else size for axis, size in enumerate(each.shape)])
        for name, each in tensors.items()
    }  # fmt: skip
    found = Stored.of(named(empty)).checkpoint(config).found["", "m.weight"]
    assert found.tensor.shape == (0, COLUMNS)
    assert found.encoded is not None


UNREAD: dict[str, tuple[Tensors, str]] = {
    "ModelOpt's AWQ": ({"weight": codes(48, COLUMNS), "weight_scale": factors(ROWS, 1)}, "integers of 4 bits, two a byte"),
    "BitNet": ({"weight": codes(24, COLUMNS), "weight_scale": factors(1).to(BF16)}, "BitNet"),
    "scaled inputs": ({**SPELLINGS["NVFP4, ModelOpt"][0], "pre_quant_scale": factors(COLUMNS)}, "whose inputs are scaled"),
    "sparse": ({"bitmask": codes(ROWS, 16), "compressed": factors(99), "shape": torch.tensor([ROWS, COLUMNS])}, "sparse weights"),
    "Quanto": ({"weight._data": codes(ROWS, COLUMNS), "weight._scale": factors(ROWS, 1)}, "Quanto or torchao"),
    "AQLM": ({"codes": codes(2, 2), "codebooks": factors(2, 2), "scales": factors(2)}, "AQLM"),
    "EXL3": ({"trellis": words(2, 2), "suh": factors(2).to(F16)}, "EXL3"),
    "sorted by activation": ({**int4(), "weight_g_idx": torch.zeros(COLUMNS, dtype=I32)}, "columns are sorted by activation"),
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_is_not_read_is_called_so_in_the_first_line(what: str) -> None:
    tensors, said = UNREAD[what]
    with pytest.raises(SourceError) as caught:
        attempt(tensors, None)
    assert said in caught.value.message
    assert "which is not read" in caught.value.message


NOT_FINITE: dict[str, tuple[str, Callable[[torch.Tensor], None]]] = {
    "an exponent of 255": ("MXFP4, ModelOpt", lambda scale: scale.view(BYTE)[5, 2:3].fill_(255)),
    "an exponent of 255 of MXFP8": ("MXFP8", lambda scale: scale.view(BYTE)[5, 2:3].fill_(255)),
    "float8's NaN": ("NVFP4, ModelOpt", lambda scale: scale.view(BYTE)[5, 2:3].fill_(0x7F)),
    "a negative NaN": ("NVFP4, compressed-tensors", lambda scale: scale.view(BYTE)[5, 2:3].fill_(0xFF)),
    "NaN in float32": ("float8 in blocks", lambda scale: scale[1, 1:].fill_(float("nan"))),
    "infinity in float32": ("float8 in rows", lambda scale: scale[7].fill_(float("inf"))),
    "infinity in bf16": ("int4", lambda scale: scale[7, 1:2].fill_(-float("inf"))),
    "infinity in fp16": ("AWQ", lambda scale: scale[1, 1:2].fill_(float("inf"))),
}


def saved(directory: Path, tensors: Tensors, config: Config) -> Path:
    """A model of one layer whose up_proj is stored so."""
    directory.mkdir()
    sizes = {"hidden_size": COLUMNS, "intermediate_size": ROWS, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 32}
    words = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False}
    at = "model.layers.0."
    plain = {f"{at}self_attn.{name}_proj.weight": torch.ones(COLUMNS, COLUMNS) for name in "qkvo"}
    plain |= {f"{at}{name}_layernorm.weight": torch.ones(COLUMNS) for name in ("input", "post_attention")}
    plain |= {f"{at}mlp.gate_proj.weight": torch.ones(ROWS, COLUMNS), f"{at}mlp.down_proj.weight": torch.ones(COLUMNS, ROWS)}
    plain |= {"model.norm.weight": torch.ones(COLUMNS)}
    plain |= {f"{name}.weight": torch.ones(32, COLUMNS) for name in ("lm_head", "model.embed_tokens")}
    held = {name: tensor.to(BF16) for name, tensor in plain.items()} | {f"{at}mlp.up_proj.{name}": each for name, each in tensors.items()}
    save_file(held, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**sizes, **words, "quantization_config": config}))
    return directory


def job(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    sides = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "mindspeed-llm", "path": str(target)}}
    return {**sides, "options": options}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_a_scale_that_is_no_number_ends_the_job_by_name_unless_it_says_otherwise(what: str, tmp_path: Path) -> None:
    kind, damage = NOT_FINITE[what]
    tensors = {name: each.clone() for name, each in SPELLINGS[kind][0].items()}
    scale = next(name for name in ("weight_scale_inv", "weight_scale", "scales") if name in tensors)
    source = saved(tmp_path / "sound", tensors, SPELLINGS[kind][1])
    convert(job(source, tmp_path / "a"), engine="inline")
    damage(tensors[scale])
    source = saved(tmp_path / "hf", tensors, SPELLINGS[kind][1])
    with pytest.raises(SourceError, match=rf"up_proj\.{scale} has scales that are infinite or no numbers") as caught:
        convert(job(source, tmp_path / "b"), engine="inline")
    assert "on_overflow" in str(caught.value)
    result = convert(job(source, tmp_path / "c", on_overflow="note", verify="digest"), engine="inline")
    assert any(note.kind == "lost" and f"up_proj.{scale} has scales" in note.text for note in result.notes)


@pytest.mark.parametrize("kind", [kind for kind in SPELLINGS if "gpt-oss" not in kind])
def test_a_model_with_a_broken_weight_is_refused_as_a_whole(kind: str, tmp_path: Path) -> None:
    tensors, config = SPELLINGS[kind]
    for number, gone in enumerate(tensors):
        source = saved(tmp_path / f"{number}", {name: each for name, each in tensors.items() if name != gone}, config)
        with pytest.raises(ConvsvcError) as caught:
            convert(job(source, tmp_path / f"to {number}"), engine="inline")
        assert "up_proj" in str(caught.value)
        assert not (tmp_path / f"to {number}" / "iter_0000001").exists()
