"""`quantization_config` as compressed-tensors reads and writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convsvc.encodings.base import Look, values_under

# Where a transform of compressed-tensors lies that is part of the weights as they are stored (transform/transform_args.py, is_online).
OFFLINE = ("weight_input", "weight_output")


class Scheme(NamedTuple):
    """How weights of some layer are quantised: bits of a code, columns that share a factor (0: all of a row); None: not said."""

    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None


def schemes(look: Look) -> tuple[Scheme, ...]:
    """What is said of weights, layer by layer; one that says nothing where nothing is.

    What stands under "weights" counts: activations and the cache have bits of their own.
    """
    said = [each for each in look.said("weights") if isinstance(each, Mapping) and _number(each.get("num_bits")) is not None]
    if said:
        return tuple(dict.fromkeys(_scheme(each) for each in said if each.get("type") != "float")) or (Scheme(),)
    numbers: list[list[Any]] = [[each for each in map(_number, look.said(name)) if each is not None] for name in ("num_bits", "group_size")]
    symmetric = [each for each in look.said("symmetric") if isinstance(each, bool)]
    told: list[list[Any]] = [list(each) or [None] for each in (*numbers, symmetric)]
    return tuple(Scheme(bits, group, even) for bits in told[0] for group in told[1] for even in told[2])


def online_transforms(look: Look) -> list[str]:
    """Where transforms are applied while the model computes: without them its weights are others. Those that lie in weights cancel out."""
    applied = [each for rotation in look.said("transform_config") for each in values_under(rotation, "location")]
    return [str(each)[:40] for each in dict.fromkeys(map(str, applied)) if each not in OFFLINE]


def _scheme(said: Mapping[str, Any]) -> Scheme:
    group, symmetric = _number(said.get("group_size")), said.get("symmetric")
    whole_row = said.get("strategy") in ("channel", "tensor")
    return Scheme(_number(said.get("num_bits")), 0 if whole_row else group, symmetric if isinstance(symmetric, bool) else None)


def _number(value: Any) -> int | None:
    """A count; -1 is how a group of all columns is written."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return max(0, value)


def config(form: str, weights: Mapping[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """The words of weights that are all encoded alike; `kept` are the modules that are not."""
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": None, "output_activations": None, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "ignore": list(kept),
        "config_groups": {"group_0": group},
    }
