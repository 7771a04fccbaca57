"""Declarations: logical tensors by axis names, and rows that say where a stored tensor keeps them. Pure; no sizes yet.

    QKV = logical("self_attention.linear_qkv.weight", "group slot head_dim hidden")
    row("self_attn.q_proj.weight", QKV.at(slot="0:q_per_group"), "(group slot head_dim) hidden")

Both sides of a conversion are rows over the same logical tensors; `tensors/blocks.py` turns rows into numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from convsvc.tensors.notation import NotationError, Order, parse_axes, parse_order

# In the place of an axis that a parallelism slices: a stored tensor's first dimension, wherever the cuts fall in what is merged there.
ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Logical:
    """A weight as the model's mathematics knows it: a name within its scope, and ordered, named axes.

    An axis is as long as the model's size of the same name. `integers` says that it holds numbers of things, not weights. `over` are the
    axes that a linear layer sums over, of one whose weight this is, or several layers' fused; `linear` says whose: a "layer"'s own or one
    of its "experts'".
    """

    name: str
    axes: tuple[str, ...]
    integers: bool = False
    over: frozenset[str] = frozenset()
    linear: str | None = None

    def at(self, **where: str) -> Selection:
        """Part of the tensor: an index or a `start:stop` for some axes, as expressions over sizes."""
        unknown = set(where) - set(self.axes)
        if unknown:
            raise NotationError(f"{self.name} has no axis {', '.join(sorted(unknown))}")
        return Selection(self, tuple(sorted(where.items())))

    def renamed(self, prefix: str) -> Logical:
        """The same axes under another name, e.g. for a second attention in one layer."""
        return replace(self, name=prefix + self.name)


@dataclass(frozen=True, slots=True)
class Selection:
    """A box of a logical tensor, by expressions; axes that are not named are whole."""

    logical: Logical
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A selection and the order its axes are stored in."""

    selection: Selection
    order: Order

    @property
    def logical(self) -> Logical:
        return self.selection.logical


@dataclass(frozen=True, slots=True)
class Row:
    """A stored tensor: its name, and the parts it consists of, one after the other along its first axis.

    The name may hold `{axis}` for an axis that no order mentions: there is a stored tensor for each index. `also` are further
    names under which it is accepted when reading. `tp`, `ep`, `etp` name the axis that this parallelism slices. `optional` says
    that a reader does without it, `written` false that a writer does. `shape` is the order the file claims where it is not the one
    the bytes are in (MindSpeed's weight1 is stored expert by expert and called `hidden (expert glu expert_ffn)`). `keep` is the dtype
    in which model code keeps it whatever the others are cast to (a router's bias: float32). `uneven` says that slices along `tp` need not
    be equal: the first ones have one more. `hole` is an axis and the index of it for which zeros are stored and nothing is meant (the bias
    of keys, in one tensor with those of queries and values: it adds the same to all scores of a query). `linear`: it is a linear layer's
    weight that publishers quantise where they quantise, a "layer"'s own or one of its "experts'"; it follows from the logical tensors
    (`_linear`) where nothing is said. `within`: the parts lie one after the
    other within each index of this axis, which is the outermost of all (a group's queries, its key, its value; then the next group's).
    """

    stored: str
    parts: tuple[Part, ...]
    also: tuple[str, ...] = ()
    tp: str | None = None
    ep: str | None = None
    etp: str | None = None
    optional: bool = False
    shape: Order | None = None
    written: bool = True
    keep: str | None = None
    uneven: bool = False
    hole: tuple[str, str] | None = None
    linear: str | None = None
    within: str | None = None

    @property
    def logicals(self) -> tuple[Logical, ...]:
        return tuple(part.logical for part in self.parts)

    @property
    def looped(self) -> tuple[str, ...]:
        """The axes for whose every index there is a stored tensor of its own."""
        return _placeholders(self.stored)

    def without(self, absent: frozenset[str]) -> Row | None:
        """The row with the parts whose logical tensor (by name) is not absent; None if none is left."""
        parts = tuple(part for part in self.parts if part.logical.name not in absent)
        return replace(self, parts=parts) if parts else None


@lru_cache(maxsize=4096)
def _placeholders(stored: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{(\w+)\}", stored))


def logical(name: str, axes: str, *, integers: bool = False, over: str = "", linear: str = "layer") -> Logical:
    """A logical tensor; a linear layer's weight, or some of them, where `over` names the axes of what goes into it.

    >>> logical("mlp.linear_fc2.weight", "hidden ffn", over="ffn").linear
    'layer'

    Raises NotationError for an axis that it does not have.
    """
    known, summed = parse_axes(axes), parse_axes(over) if over else ()
    if set(summed) - set(known):
        raise NotationError(f"{name} has no axis {', '.join(sorted(set(summed) - set(known)))}")
    return Logical(name, known, integers, frozenset(summed), linear if over else None)


def part(what: Logical | Selection, order: str) -> Part:
    """A part of a row; every axis is in the order, or fixed to an index, or looped over by the row's name."""
    selection = what if isinstance(what, Selection) else Selection(what)
    written = [axis for group in parse_order(order) for axis in group]
    unknown = set(written) - set(selection.logical.axes)
    if unknown:
        raise NotationError(f"{selection.logical.name} has no axis {', '.join(sorted(unknown))} (order {order!r})")
    return Part(selection, parse_order(order))


def _linear(stored: str, parts: tuple[Part, ...]) -> str | None:
    """Whose weight it is, if it is a linear layer's (torch.nn.Linear): a matrix called weight, all that goes in on its last axis.

    Not one that is stored turned (transformers' Conv1D), nor experts in one tensor: nobody takes those for linear layers.
    """
    kinds = {each.logical.linear for each in parts}
    whole = all(len(each.order) == 2 and each.logical.over == set(each.order[1]) for each in parts)
    is_expert = "experts" in kinds and "{expert}" not in stored
    return kinds.pop() if stored.endswith(".weight") and len(kinds) == 1 and whole and not is_expert else None


def row(
    stored: str,
    what: Logical | Selection | tuple[Part, ...],
    order: str | None = None,
    *,
    also: tuple[str, ...] = (),
    tp: str | None = None,
    ep: str | None = None,
    etp: str | None = None,
    optional: bool = False,
    shape: str | None = None,
    written: bool = True,
    keep: str | None = None,
    uneven: bool = False,
    hole: tuple[str, str] | None = None,
    linear: str | None = None,
    within: str | None = None,
) -> Row:
    """A row of a table: the stored name, what it holds, in which order.

    >>> QKV = logical("qkv", "group slot head_dim hidden")
    >>> row("q_proj.weight", QKV.at(slot="0:q_per_group"), "(group slot head_dim) hidden").logicals[0].name
    'qkv'

    Raises NotationError if an axis is neither stored, fixed nor looped over.
    """
    parts = what if isinstance(what, tuple) else (part(what, order or ""),)
    claimed = parse_order(shape) if shape else None
    linear = linear or _linear(stored, parts)
    made = Row(stored, parts, also, tp, ep, etp, optional, claimed, written, keep, uneven, hole, linear, within)
    if within is not None and any(piece.order[0][0] != within for piece in parts):
        raise NotationError(f"{stored}: {within} must be the outermost axis of every part")
    for piece in parts:
        stored_axes = {axis for group in piece.order for axis in group}
        fixed = {axis for axis, where in piece.selection.where if ":" not in where}
        missing = set(piece.logical.axes) - stored_axes - fixed - set(made.looped)
        if missing or stored_axes & fixed or stored_axes & set(made.looped):
            raise NotationError(f"{stored}: axes of {piece.logical.name} must be stored once, fixed, or in the name: {sorted(missing)}")
    return made
