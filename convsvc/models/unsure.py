"""Sizes of which a configuration says too little, as the shapes of what is stored show them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope

Shapes = Mapping[str, tuple[int, ...]]


def with_seen_sizes(model: Model, shapes: Callable[[], Shapes], rows_of: Callable[[Scope], tuple[Rows, str]]) -> Model:
    """The model whose unsure axes (`Tower.unsure`) are as long as stored tensors have them.

    `rows_of` gives a scope's rows and the prefix of their stored names; an axis is seen where it is a dimension of its own.
    """
    unsure = {tower.name: tower.unsure for tower in model.family.towers if tower.unsure}
    if not unsure:
        return model
    found, seen = shapes(), dict[tuple[str, str], int]()
    for scope in model.scopes:
        axes = unsure.get(scope.module, ())
        if all((scope.module, axis) in seen for axis in axes):
            continue
        rows, prefix = rows_of(scope)
        for row in rows:
            shape = found.get(prefix + row.stored)
            if shape is None or len(row.parts) > 1 or len(row.parts[0].order) != len(shape):
                continue
            for at, group in enumerate(row.parts[0].order):
                if len(group) == 1 and group[0] in axes:
                    seen.setdefault((scope.module, group[0]), shape[at])
    return replace(model, scopes=tuple(_seen(scope, seen) for scope in model.scopes))


def with_sizes_of(model: Model, other: Model) -> Model:
    """The model whose unsure axes are as long as another's of its family."""
    unsure = {tower.name: tower.unsure for tower in model.family.towers if tower.unsure}
    sizes = {
        (scope.module, axis): scope.sizes[axis] for scope in other.scopes for axis in unsure.get(scope.module, ()) if axis in scope.sizes
    }
    return replace(model, scopes=tuple(_seen(scope, sizes) for scope in model.scopes)) if sizes else model


def _seen(scope: Scope, seen: Mapping[tuple[str, str], int]) -> Scope:
    mine = {axis: size for (module, axis), size in seen.items() if module == scope.module and axis in scope.sizes}
    return replace(scope, sizes={**scope.sizes, **mine}) if mine else scope
