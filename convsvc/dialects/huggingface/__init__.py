"""Hugging Face directories: config.json and weights in safetensors or `.bin` files. Names come from the family's own rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from convsvc.dialects.base import Checkpoint, Entry
from convsvc.dialects.huggingface import checkpoint as directory
from convsvc.dialects.huggingface.adapter_source import with_adapter
from convsvc.dialects.huggingface.new_files import output
from convsvc.dialects.templates import WHOLE, Templates
from convsvc.families.model import Model, numbered
from convsvc.roots import RootedPath, Roots
from convsvc.spec import HuggingFaceSource, HuggingFaceTarget

name = "huggingface"


def open(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
    """The directory's headers, and those of the PEFT adapter that the job states. Raises SourceError, FormatError; PathRefused."""
    base = directory.open(source, roots)
    if source.lora is None or source.lora.path is None:
        return base
    return with_adapter(base, RootedPath(source.lora.path, roots))


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
    layer = numbered(model.family.layer_prefix, "{layer}", stored)
    if layer is not None and layer < model.hidden_layers and layer not in model.kept:
        return f"in a layer that is left out: {model.num_layers} of {model.hidden_layers} are converted"
    mtp = model.mtp_layer_of(stored)
    if mtp is not None and mtp >= model.num_mtp:
        return f"in an MTP layer that is not asked for: mtp_num_layers is {model.num_mtp}"
    return None


def _entries(model: Model) -> Iterator[Entry]:
    templates = Templates()
    for scope in model.scopes:
        for template in templates.of(scope, scope.rows, scope.prefix):
            yield from (Entry("", laid, scope.logical or scope.kind) for laid in templates.lay(template, {}, WHOLE))
    yield from (Entry("", laid, "carried") for laid in model.lay_carried())


__all__ = ["ignores", "layout", "name", "open", "output", "read_settings", "write_settings"]
