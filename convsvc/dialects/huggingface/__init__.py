"""Hugging Face directories: config.json and weights in safetensors or `.bin` files. Names come from the family's own rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from convsvc.dialects.base import Checkpoint, Entry
from convsvc.dialects.huggingface import checkpoint as directory
from convsvc.dialects.huggingface.adapter_source import with_adapter
from convsvc.dialects.huggingface.names import by_family_names
from convsvc.dialects.huggingface.new_files import output
from convsvc.dialects.templates import WHOLE, Templates
from convsvc.errors import SourceError
from convsvc.models.model import Model, Rows, Scope, numbered
from convsvc.roots import RootedPath, Roots
from convsvc.spec import HuggingFaceSource, HuggingFaceTarget

name = "huggingface"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is stored where a family has several ways: the stored names of the rows (`Family.packed`) that are there."""

    packed: tuple[str, ...]


def open(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
    """The directory's headers, and those of the PEFT adapter that the job states. Raises SourceError, FormatError; PathRefused."""
    base = directory.open(source, roots)
    if source.lora is None or source.lora.path is None:
        return base
    return with_adapter(base, RootedPath(source.lora.path, roots))


def read_settings(source: HuggingFaceSource, checkpoint: Checkpoint, model: Model) -> Settings | None:
    """Which of the family's packed rows are stored; None where none is.

    Raises SourceError if it cannot be seen which way round packed experts lie.
    """
    packed = tuple(
        scope.prefix + each.stored
        for scope in model.scopes
        for each in model.family.packed
        if ("", scope.prefix + each.stored) in checkpoint.found and scope.logicals.issuperset(part.name for part in each.logicals)
    )
    if not packed:
        return None
    _check_turned(checkpoint, packed)
    return Settings(packed)


def _check_turned(checkpoint: Checkpoint, packed: tuple[str, ...]) -> None:
    """Output before input is how transformers 5 packs experts; some models' own code packs them the other way round.

    The shape tells which it is, of both matrices of a layer together: one of them is no square. Raises SourceError where there is one only.
    """
    folders: dict[str, list[tuple[int, ...]]] = {}
    for stored in packed:
        shape = checkpoint.found["", stored].tensor.shape
        if len(shape) == 3:
            folders.setdefault(stored.rpartition(".")[0], []).append(shape)
    unclear = sorted(folder for folder, shapes in folders.items() if all(shape[1] == shape[2] for shape in shapes))
    if unclear:
        raise SourceError(
            f"{checkpoint.path}: which way round the packed experts lie cannot be seen, as their matrices are square",
            facts=unclear[:5],
            do="save them one by one: transformers 5 does with save_pretrained(save_original_format=True)",
        )


def assumed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Nothing: tensors are found by their names, in whatever file."""
    return ()


def write_settings(target: HuggingFaceTarget, model: Model) -> None:
    """There is nothing to decide: names follow from the model."""


def layout(model: Model, settings: Settings | None = None) -> tuple[Entry, ...]:
    """Every tensor a Hugging Face checkpoint of this model has, in the model's order."""
    return tuple(_entries(model, frozenset(settings.packed if settings else ())))


def ignores(key: tuple[str, str], model: Model) -> str | None:
    """Buffers that are no weights, and layers left out by num_layers."""
    stored = key[1]
    if any(re.search(pattern, stored) for pattern in model.family.ignored):
        return "a buffer that is computed, not a weight"
    layer = numbered(model.family.layer_prefix, "{layer}", stored)
    if layer is not None and layer < model.hidden_layers and layer not in model.kept:
        return f"in a layer that is left out: {model.num_layers} of {model.hidden_layers} are converted"
    mtp = model.mtp_layer_of(stored)
    if mtp is not None and mtp >= model.num_mtp and not model.carried_mtp:  # one that is carried is carried whole, by its rows
        return f"in an MTP layer that is not asked for: mtp_num_layers is {model.num_mtp}"
    return None


def _entries(model: Model, packed: frozenset[str]) -> Iterator[Entry]:
    templates = Templates()
    for scope in model.scopes:
        for template in templates.of(scope, _rows(scope, model, packed), scope.prefix):
            yield from (Entry("", laid, scope.logical or scope.kind) for laid in templates.lay(template, {}, WHOLE))
    yield from (Entry("", laid, "carried") for laid in model.lay_carried())


def _rows(scope: Scope, model: Model, packed: frozenset[str]) -> Rows:
    """The scope's rows, packed ones in the place of those that hold the same."""
    stored = tuple(each for each in model.family.packed if scope.prefix + each.stored in packed) if packed else ()
    if not stored:
        return scope.rows
    names = frozenset(part.name for each in stored for part in each.logicals)
    return tuple(kept for each in scope.rows if (kept := each.without(names)) is not None) + stored


__all__ = ["assumed", "by_family_names", "ignores", "layout", "name", "open", "output", "read_settings", "write_settings"]
