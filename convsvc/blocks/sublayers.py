"""Layers that hold some of their parts twice: everything of that kind, with one more axis, `sublayer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from convsvc.tensors.declare import Logical, Part, Row

AXIS = "sublayer"


def in_sublayers(rows: Iterable[Row], names: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows once for each sublayer; `names` says how the beginnings of stored names change, with {sublayer} for the number.

    >>> from convsvc.tensors.declare import logical, row
    >>> made, = in_sublayers([row("norm.weight", logical("norm.weight", "hidden"), "hidden")], {"norm.": "norm_{sublayer}."})
    >>> made.stored, made.logicals[0].axes
    ('norm_{sublayer}.weight', ('sublayer', 'hidden'))
    """
    return tuple(
        replace(row, stored=_renamed(row.stored, names), parts=tuple(_with_axis(part) for part in row.parts), also=()) for row in rows
    )


def _renamed(stored: str, names: Mapping[str, str]) -> str:
    old = next(name for name in names if stored.startswith(name))
    return names[old] + stored.removeprefix(old)


def _with_axis(part: Part) -> Part:
    old = part.logical
    return replace(part, selection=replace(part.selection, logical=Logical(f"sublayers.{old.name}", (AXIS, *old.axes))))
