"""The stored tensors of a model by name and shape alone, for comparing: a trillion parameters' hundred thousand in a moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from convsvc.dialects.huggingface.layout import rows_of
from convsvc.models.model import Model
from convsvc.tensors.blocks import lay
from convsvc.tensors.declare import Row


class Stored(NamedTuple):
    """A stored tensor's shape, and whether a checkpoint must have it."""

    shape: tuple[int, ...]
    is_required: bool


def stored_names(model: Model, packed: frozenset[str] = frozenset()) -> Mapping[str, Stored]:
    """Every tensor that a Hugging Face checkpoint of the model has or may have; `packed` as in `lay_model`.

    Layers of one kind are laid once.
    """
    laid: dict[tuple[Row, frozenset[tuple[str, int]]], list[tuple[str, Stored]]] = {}
    names: dict[str, Stored] = {}
    for scope in model.scopes:
        sizes = frozenset(scope.sizes.items())
        for row in rows_of(scope, model, packed):
            alike = laid.get((row, sizes))
            if alike is None:
                is_required = row.written and not row.optional
                alike = [(each.name, Stored(each.shape, is_required)) for each in lay(row, scope.sizes, {})]
                laid[row, sizes] = alike
            for name, stored in alike:
                names[scope.prefix + name] = stored
    return names
