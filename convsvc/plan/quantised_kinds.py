"""Ways of quantising that are not read: recognised by what lies beside or in the place of a weight, and refused by name. Pure.

Which way it is shows in the tensors, not in the configuration: `quant_method` is absent, nested or wrong in many published models, and
one checkpoint may mix several. The names and dtypes are those of compressed-tensors, ModelOpt, gpt-oss, DeepSeek-V4, AutoAWQ, GPTQModel,
bitsandbytes, MLX, Mistral's own FP8, HQQ, Quanto, torchao, AQLM, EXL2 and EXL3. Quantised weights that are read are in `quantised`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from convsvc.dialects.base import Checkpoint, Found
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown

Key = tuple[str, str]
CONFIG = "quantization_config"
# What is in the place of a weight or beside it and tells by its name alone what it is; the longest endings first.
TELLING: tuple[tuple[str, str], ...] = (
    (".quant_state.bitsandbytes__nf4", "NF4 of bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "FP4 of bitsandbytes"),
    (".SCB", "int8 of bitsandbytes"),
    (".weight_scale_2", "NVFP4 of ModelOpt"),
    ("_weight_scale_2", "NVFP4 of ModelOpt"),
    (".qscale_weight", "float8 under Mistral's own names"),
    (".g_idx", "GPTQ"),
    (".qweight", "AWQ or GPTQ"),
    (".W_q", "HQQ"),
    ("._data", "Quanto or torchao"),
    (".codebooks", "AQLM"),
    (".Qidxs", "QuIP#"),
    (".trellis", "EXL3"),
    (".q_weight", "EXL2"),
)
PACK, BLOCKS, SCALES = ".weight_packed", "_blocks", ".scales"
_ENDINGS = (*(ending for ending, _ in TELLING), PACK, BLOCKS, SCALES)
_METHODS = {"gptq": "GPTQ", "awq": "AWQ"}


def refuse_unread(checkpoint: Checkpoint) -> None:
    """Raises SourceError if weights are quantised in a way that is not read, saying which."""
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for key, kind in _signs(checkpoint.found):
        kinds[kind] += 1
        examples.setdefault(kind, key[1])
    if not kinds:
        return
    said = _method(checkpoint.facts)
    names = " and ".join(_named(kind, said) for kind, _ in kinds.most_common())
    raise SourceError(
        f"{checkpoint.path} is quantised: {names}, which is not read",
        facts=[f"{_named(kind, said)}: {count} weights, e.g. {examples[kind]}" for kind, count in kinds.most_common()]
        + ([f"{checkpoint.facts.origin} says {CONFIG} {shown(said)}"] if said else []),
        do="give the checkpoint it was made from (bf16, fp16, fp32 or float8), or dequantise it first: load it with transformers and "
        "`dequantize`, and save it",
    )


def _signs(found: Mapping[Key, Found]) -> Iterator[tuple[Key, str]]:
    """(a tensor, the way of quantising that it is a sign of); one for each weight, as far as names tell."""
    dtypes = {each.tensor.dtype for each in found.values()}
    for (file, name), each in found.items():
        if name.endswith(_ENDINGS):
            kind = _by_name(file, name, each, found)
            if kind is not None:
                yield (file, name), kind
        elif each.tensor.dtype in ("I8", "U8", "F8_E4M3"):
            kind = _by_scale(file, name, each, found) if "U8" in dtypes or "I8" in dtypes else None
            if kind is not None:
                yield (file, name), kind


def _by_name(file: str, name: str, each: Found, found: Mapping[Key, Found]) -> str | None:
    if name.endswith(PACK):
        return _packed(file, name.removesuffix(PACK), each, found)
    if name.endswith(BLOCKS):
        return "MXFP4 of gpt-oss" if (file, name.removesuffix(BLOCKS) + "_scales") in found else None
    if name.endswith(SCALES):
        weight = found.get((file, name.removesuffix(SCALES) + ".weight"))
        return "MLX" if weight is not None and weight.tensor.dtype == "U32" else None
    if name.endswith(".qweight") and (file, name.removesuffix(".qweight") + ".g_idx") in found:
        return None  # its g_idx speaks for it
    return next(kind for ending, kind in TELLING if name.endswith(ending))


def _packed(file: str, module: str, each: Found, found: Mapping[Key, Found]) -> str:
    """compressed-tensors' packed weights: integers in int32, floats of four bits in bytes."""
    if each.tensor.dtype != "U8":
        return "int4 of compressed-tensors (pack-quantized)"
    is_nvidia = (file, module + ".weight_global_scale") in found
    return f"{'NVFP4' if is_nvidia else 'MXFP4'} of compressed-tensors"


def _by_scale(file: str, name: str, each: Found, found: Mapping[Key, Found]) -> str | None:
    """What a weight of bytes is by the scale beside it."""
    if not name.endswith(".weight"):
        return None
    beside = (f"{name}_scale", f"{name}_scale_inv", name.removesuffix("weight") + "scale")
    scale = next((found[file, other].tensor for other in beside if (file, other) in found), None)
    if scale is None:
        return None
    if each.tensor.dtype == "F8_E4M3":
        return "MXFP8 (float8 with an exponent for every 32 numbers)" if scale.dtype == "U8" else None
    if (file, name + "_scale_2") in found:
        return None  # NVFP4's second scale speaks for it
    if scale.dtype in ("F8_E8M0", "U8"):
        return "MXFP4 in bytes (as DeepSeek-V4's experts)"
    return "int8"


def _method(facts: Facts) -> str | None:
    """What the configuration calls it, at the top or in text_config."""
    inner = facts.get("text_config")
    config = facts.get(CONFIG) or (inner.get(CONFIG) if isinstance(inner, Mapping) else None)
    if not isinstance(config, Mapping):
        return None
    parts = [str(config[name])[:60] for name in ("quant_method", "quant_algo", "format") if isinstance(config.get(name), str)]
    return ", ".join(parts) or None


def _named(kind: str, said: str | None) -> str:
    """The kind; where names leave it open, as the configuration says."""
    method = (said or "").split(",")[0]
    return _METHODS.get(method, kind) if kind == "AWQ or GPTQ" else kind
