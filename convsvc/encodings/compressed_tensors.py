"""`quantization_config` as compressed-tensors writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
