"""Rows of diffusion transformers: matrices with their biases, spelled as each library spells them. Pure.

A published diffusion model has no configuration that says all its sizes, so an axis is as long as the tensors show
(`models/diffusion.py`): axes are named where two tensors must agree. `time` is the width of the time embedding, `modulation` all shifts,
scales and gates that it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.tensors.declare import Logical, Part, Row, Selection, logical, part, row

Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix [out, in], and its bias if it has one, by a common name."""

    weight: Logical
    bias: Logical | None

    @property
    def both(self) -> tuple[tuple[str, Logical], ...]:
        return (("weight", self.weight),) + (() if self.bias is None else (("bias", self.bias),))


def linear(name: str, axes: str, *, bias: bool = True) -> Linear:
    """A matrix of these axes, the first of which its bias has; a norm is one with a single axis.

    >>> bias = linear("self_attn.q", "inner hidden").bias
    >>> bias.name, bias.axes
    ('self_attn.q.bias', ('inner',))
    """
    first = axes.split(maxsplit=1)[0]
    return Linear(logical(f"{name}.weight", axes), logical(f"{name}.bias", first) if bias else None)


def spelled(*lines: tuple[Linear | Logical, str] | tuple[Linear | Logical, str, str]) -> Rows:
    """The rows of (what, stored name), or (what, stored name, the axis that tensor ranks cut). A bias without that axis is whole on each.

    >>> [(each.stored, each.tp) for each in spelled((linear("out", "hidden inner"), "o", "inner"))]
    [('o.weight', 'inner'), ('o.bias', None)]
    """
    return tuple(each for line in lines for each in _line(*line))


def _line(what: Linear | Logical, stored: str, tp: str | None = None) -> Rows:
    tensors = (("", what),) if isinstance(what, Logical) else what.both
    names = [(f"{stored}.{end}" if end else stored, tensor) for end, tensor in tensors]
    return tuple(row(name, tensor, " ".join(tensor.axes), tp=tp if tp in tensor.axes else None) for name, tensor in names)


def joined(stored: str, *whats: Linear, tp: str | None = None) -> Rows:
    """Several matrices in one stored tensor, one after the other along their first axes; their biases likewise.

    >>> q, k = linear("q", "inner hidden"), linear("k", "inner hidden")
    >>> [(each.stored, len(each.parts)) for each in joined("qk", q, k)]
    [('qk.weight', 2), ('qk.bias', 2)]
    """
    columns = zip(*(what.both for what in whats), strict=True)
    return tuple(
        row(f"{stored}.{pairs[0][0]}", tuple(part(tensor, " ".join(tensor.axes)) for _, tensor in pairs), tp=tp) for pairs in columns
    )


def chunks(stored: str, what: Linear, axis: str, step: str, starts: tuple[int, ...], count: int) -> Rows:
    """A stored tensor of `count` steps of an axis from each of `starts` on: part of what another form stores in one order."""

    def parts(tensor: Logical) -> tuple[Part, ...]:
        where = [f"{first} * {step}:{first + count} * {step}" for first in starts]
        return tuple(part(Selection(tensor, ((axis, each),)), " ".join(tensor.axes)) for each in where)

    return tuple(row(f"{stored}.{end}", parts(tensor)) for end, tensor in what.both)
