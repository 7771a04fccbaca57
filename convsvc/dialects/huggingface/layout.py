"""The stored tensors of a model by the family's own rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convsvc.dialects.layout import Layout
from convsvc.dialects.templates import lay_table
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is stored where a family has several ways: the stored names of the rows (`Family.packed`) that are there."""

    packed: tuple[str, ...]


def packed_in(settings: Settings | None) -> frozenset[str]:
    """The names of those rows; none where there is nothing to say."""
    return frozenset(settings.packed if settings else ())


def unclear_folders(shapes: Mapping[str, tuple[int, ...]], packed: Iterable[str]) -> list[str]:
    """The layers (by what their experts' names begin with) of whose packed matrices no shape says which way round they lie."""
    folders: dict[str, list[tuple[int, ...]]] = {}
    for stored in packed:
        if len(shapes.get(stored, ())) == 3:
            folders.setdefault(stored.rpartition(".")[0], []).append(shapes[stored])
    return sorted(folder for folder, both in folders.items() if all(shape[1] == shape[2] for shape in both))


def lay_model(model: Model, packed: frozenset[str] = frozenset()) -> Layout:
    """Every tensor in the model's order; rows whose stored names are in `packed` in the place of those that hold the same."""
    return lay_table(model, lambda scope: (rows_of(scope, model, packed), scope.prefix))


def rows_of(scope: Scope, model: Model, packed: frozenset[str]) -> Rows:
    """The scope's rows, packed ones in the place of those that hold the same."""
    held = scope.logicals if packed else frozenset()
    stored = tuple(
        each
        for each in (model.family.packed if packed else ())
        if scope.prefix + each.stored in packed and held.issuperset(part.name for part in each.logicals)
    )
    if not stored:
        return scope.rows
    names = frozenset(part.name for each in stored for part in each.logicals)
    return tuple(kept for each in scope.rows if (kept := each.without(names)) is not None) + stored
