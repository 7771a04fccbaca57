"""The page of a diffusion model: its tensors by the names of each form it is published in, and by MindSpeed-MM's with how they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from convsvc.dialects.mindspeed_mm_sora.form import FRAMEWORK, Form
from convsvc.dialects.mindspeed_mm_sora.tables import forms
from convsvc.models.diffusion import Diffusion, Seen, scopes_of
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.declare import Row


def example_seen(family: Diffusion) -> Seen:
    """A layer of each stack, every group, every axis 8."""
    labels = {name: ("0.0" if r"\." in stack.label else "0",) for name, stack in family.forms[0].stacks.items()}
    rough = Seen(labels, frozenset(family.forms[0].groups), {})
    axes = {axis for scope in scopes_of(family.forms[0], rough) for row in scope.rows for each in row.logicals for axis in each.axes}
    return replace(rough, sizes=dict.fromkeys(axes, 8))


def example(family: Diffusion) -> Model:
    """The family with everything that it may have."""
    return family.model_of(example_seen(family))


def tables(family: Diffusion) -> list[str]:
    """A table for each form; the logical tensor says what is the same under another name."""
    seen = example_seen(family)
    form = forms().get(family.name)
    lines: list[str] = []
    for spelling in (*family.forms, *(() if form is None else (form.spelling,))):
        mine = form is not None and spelling is form.spelling
        title = FRAMEWORK if mine else f"Form `{spelling.name}`"
        lines += [f"## {title}", ""]
        if mine and form is not None:
            lines += [_training(form), ""]
        for scope in scopes_of(spelling, seen):
            lines += [f"### {_heading(scope)}", "", "| stored | what it is | axes as stored | cut along |", "|---|---|---|---|"]
            lines += [line for row in scope.rows for line in _lines(row, scope, seen)]
            lines.append("")
    return lines


def _training(form: Form) -> str:
    can = [
        name for name, is_there in (("tp_size", form.tp), ("pp_layers", form.pp), ("pp_layers with virtual stages", form.vpp)) if is_there
    ]
    return f"It takes {', '.join(can)}." if can else "One rank file: neither tp_size nor pp_layers."


def _heading(scope: Scope) -> str:
    return {"embedding": "Before the layers", "output": "After the layers"}.get(scope.kind, f"A layer of {scope.module}")


def _lines(row: Row, scope: Scope, seen: Seen) -> Iterator[str]:
    prefix = scope.prefix
    for label in {label for labels in seen.stacks.values() for label in labels} if scope.kind == "layer" else ():
        prefix = prefix.replace(f".{label}.", ".{layer}.", 1)
    for number, part in enumerate(row.parts):
        order = " ".join(group[0] if len(group) == 1 else f"({' '.join(group)})" for group in part.order)
        where = ", ".join(f"{axis} {at}" for axis, at in part.selection.where)
        among = f"part {number + 1} of {len(row.parts)}: " if len(row.parts) > 1 else ""
        yield f"| `{prefix}{row.stored}` | `{part.logical.name}` | {among}{order}{f'; {where}' if where else ''} | {row.tp or ''} |"
