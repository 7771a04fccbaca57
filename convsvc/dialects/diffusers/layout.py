"""The stored tensors of a diffusion model in one of its published forms. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects.layout import Layout
from convsvc.dialects.templates import lay_table
from convsvc.models.diffusion import Diffusion, Seen, Spelling, scopes_of
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope


@dataclass(frozen=True, slots=True)
class Settings:
    """The form; the label of each layer by stack, where layers are not simply numbered."""

    spelling: Spelling
    prefix: str = ""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The settings in JSON, for people."""
        return {"form": self.spelling.name} | ({"before_names": self.prefix} if self.prefix else {})


def lay_form(model: Model, settings: Settings) -> Layout:
    """Every tensor by the form's names, in the model's order."""
    rows = {scope_key(scope): scope for scope in scopes_of(settings.spelling, seen_of(model))}

    def table(scope: Scope) -> tuple[Rows, str]:
        its = rows[scope_key(scope)]
        return its.rows, its.prefix

    return lay_table(model, table)


def scope_key(scope: Scope) -> tuple[str, str]:
    """What tells a model's scopes apart, whatever form names them."""
    return scope.kind, scope.logical


def seen_of(model: Model) -> Seen:
    """What a model was made of once, from the model."""
    assert isinstance(model.family, Diffusion)
    first = model.family.forms[0]
    stacks: dict[str, list[str]] = {name: [] for name in first.stacks}
    present = {each.name for scope in model.scopes for row in scope.rows for each in row.logicals}
    for scope in model.scopes:
        if scope.kind == "layer":
            head, _, tail = first.stacks[scope.module].prefix.partition("{layer}")
            stacks[scope.module].append(scope.prefix.removeprefix(head).removesuffix(tail))
    groups = frozenset(
        name
        for name, places in first.groups.items()
        if any(each.name in present for rows in places.values() for row in rows for each in row.logicals)
    )
    return Seen({name: tuple(labels) for name, labels in stacks.items()}, groups, dict(model.sizes))
