"""The stored tensors of a model by the family's own rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from convsvc.dialects.base import Entry
from convsvc.dialects.templates import WHOLE, Templates
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope


def lay_model(model: Model, packed: frozenset[str] = frozenset()) -> tuple[Entry, ...]:
    """Every tensor in the model's order; rows whose stored names are in `packed` in the place of those that hold the same."""
    return tuple(_entries(model, packed))


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
