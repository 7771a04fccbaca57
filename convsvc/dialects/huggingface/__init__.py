"""Hugging Face directories: config.json and weights in safetensors or `.bin` files. Names come from the family's own rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from convsvc.dialects.base import Checkpoint, Entry
from convsvc.dialects.huggingface.checkpoint import open
from convsvc.dialects.huggingface.new_files import output
from convsvc.families.model import Model
from convsvc.spec import HuggingFaceSource, HuggingFaceTarget
from convsvc.tensors.blocks import lay

name = "huggingface"


def read_settings(source: HuggingFaceSource, checkpoint: Checkpoint, model: Model) -> None:
    """There is nothing to decide: names follow from the model."""


def write_settings(target: HuggingFaceTarget, model: Model) -> None:
    """There is nothing to decide: names follow from the model."""


def layout(model: Model, settings: None = None) -> tuple[Entry, ...]:
    """Every tensor a Hugging Face checkpoint of this model has, in the model's order."""
    return tuple(_entries(model))


def ignores(key: tuple[str, str], model: Model) -> str | None:
    """Buffers that are no weights, and layers left out by num_layers."""
    stored = key[1]
    if any(re.search(pattern, stored) for pattern in model.family.ignored):
        return "a buffer that is computed, not a weight"
    pattern = re.escape(model.family.layer_prefix).replace(re.escape("{layer}"), r"(\d+)")
    match = re.match(pattern, stored)
    if match and model.num_layers <= int(match[1]) < model.hidden_layers:
        return f"in a layer beyond num_layers {model.num_layers}"
    return None


def _entries(model: Model) -> Iterator[Entry]:
    for scope in model.scopes:
        for row in scope.rows:
            for laid in lay(row, scope.sizes, {}, scope.logical, scope.prefix):
                yield Entry("", laid, scope.logical or scope.kind)


__all__ = ["ignores", "layout", "name", "open", "output", "read_settings", "write_settings"]
