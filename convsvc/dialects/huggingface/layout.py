"""The stored tensors of a model by the family's own rows. Pure."""

from __future__ import annotations

from convsvc.dialects.base import Layout
from convsvc.dialects.templates import lay_table
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope


def lay_model(model: Model, packed: frozenset[str] = frozenset()) -> Layout:
    """Every tensor in the model's order; rows whose stored names are in `packed` in the place of those that hold the same."""
    return lay_table(model, lambda scope: (_rows(scope, model, packed), scope.prefix))


def _rows(scope: Scope, model: Model, packed: frozenset[str]) -> Rows:
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
