"""Layouts of tensors that bear Hugging Face's names: experts in other forms, copies, files by the layers that are in the names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.layout import Layout
from convsvc.dialects.templates import lay_table
from convsvc.errors import LayoutError
from convsvc.models.expert_stacks import KIND, rows_in
from convsvc.models.model import Model
from convsvc.notes import Note

CARRIED = "carried"
_LAYER = re.compile(r"(.*?\.\d+\.)")


def lay_named(model: Model, experts: Mapping[str, str]) -> Layout:
    """Every tensor of the model; experts in these forms, by what their names begin with, others as the model has them.

    Raises LayoutError for forms of a model whose family says how it keeps its experts.
    """
    if not experts:
        return lay_model(model)
    if any(scope.kind != KIND for scope in model.scopes):
        raise LayoutError(f"experts: {model.family.name} keeps its experts in its own way", do='leave it out, or say model_type "tensors"')
    return lay_table(model, lambda scope: (rows_in(scope, experts), scope.prefix))


def without_experts(model: Model, experts: Mapping[str, str]) -> tuple[Note, ...]:
    """A note where forms of experts are asked for, and the model has none."""
    if not experts or any(scope.kind == KIND for scope in model.scopes):
        return ()
    return (Note("advice", "target.experts says how experts are kept, and no layer has any: nothing of that changes"),)


def with_copies(layout: Layout, copies: Mapping[str, str]) -> Layout:
    """The layout with some tensors once more under another name. Raises LayoutError for what is not there, or is there already."""
    if not copies:
        return layout
    number = {laid.name: kind for kind, laid in enumerate(layout.kinds)}
    faults = [f"{of}: there is no such tensor, of which {name} would be a copy" for name, of in copies.items() if of not in number]
    faults += [f"{name}: is there already, and is no copy" for name in copies if name in number]
    if faults:
        raise LayoutError("target.copies cannot be made", facts=faults, do="give names that the source has, or leave it out")
    kinds, entries = list(layout.kinds), list(layout.entries)
    entry_of = {entry.kind: entry for entry in entries}
    for name, of in copies.items():
        entries.append(entry_of[number[of]]._replace(kind=len(kinds)))
        kinds.append(layout.kinds[number[of]]._replace(name=name, also=()))
    return Layout(tuple(kinds), tuple(entries))


def layer_of(name: str) -> str:
    """What tensors of one layer begin with; "" for what is in none.

    >>> layer_of("model.layers.3.mlp.experts.7.w"), layer_of("lm_head.weight")
    ('model.layers.3.', '')
    """
    match = _LAYER.match(name)
    return match[1] if match else ""
