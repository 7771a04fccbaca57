"""Axes' sizes from the shapes of stored tensors, where no configuration says them. Pure.

Each stored dimension is an equation: the product of the axes merged in it, or the sum over the parts that lie one after the other, is its
length. Equations with one unknown are solved first; those that are left (a sum of two unknown widths in one matrix, another sum of them
in the next) together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from types import MappingProxyType

from convsvc.errors import SourceError
from convsvc.tensors.declare import Row

Axes = tuple[str, ...]
# Factors by axis and what they sum up to; and the same solved for one axis.
Linear = tuple[dict[str, Fraction], Fraction]
Pivot = tuple[str, dict[str, Fraction], Fraction]


@dataclass(frozen=True, slots=True)
class Equation:
    """The sum of products of axes that a dimension of a tensor is; `where` names both, for errors."""

    terms: tuple[Axes, ...]
    length: int
    where: str

    def reduced(self, sizes: Mapping[str, int]) -> tuple[dict[Axes, int], int]:
        """(factor of each product of unknown axes, what they sum up to)."""
        unknown: dict[Axes, int] = {}
        rest = self.length
        for axes in self.terms:
            factor = prod(sizes[axis] for axis in axes if axis in sizes)
            left = tuple(axis for axis in axes if axis not in sizes)
            if left:
                unknown[left] = unknown.get(left, 0) + factor
            else:
                rest -= factor
        return unknown, rest


def equations_of(
    row: Row, stored: str, shape: tuple[int, ...], tp: int = 1, sums: Mapping[str, Axes] = MappingProxyType({})
) -> Iterable[Equation]:
    """What a stored tensor's shape says; `tp`: how many ranks the row's own axis is cut over. Parts that are selections say nothing.

    `sums` are axes that consist of others, one after the other.

    Raises SourceError for another number of dimensions.
    """
    first = row.parts[0]
    if len(shape) != len(first.order):
        raise SourceError(f"{stored} has {len(shape)} dimension(s), {list(shape)}; it must have {len(first.order)}")
    for at, length in enumerate(shape):
        groups = [part.order[at] for part in row.parts]
        if any(axis in dict(part.selection.where) for part in row.parts for axis in part.order[at]):
            continue
        terms = tuple(groups) if at == 0 else (groups[0],)
        terms = tuple(each for group in terms for each in ([(axis,) for axis in sums[group[0]]] if group[0] in sums else [group]))
        scale = tp if row.tp and any(row.tp in group for group in groups) else 1
        yield Equation(terms, length * scale, f"{stored}, dimension {at}")


def solve(equations: Iterable[Equation], origin: str, constants: Mapping[str, int] = MappingProxyType({})) -> dict[str, int]:
    """Every axis' size; `constants` are known. Raises SourceError where shapes contradict each other, or leave an axis open."""
    equations = list(equations)
    sizes: dict[str, int] = dict(constants)
    said: dict[str, str] = {}
    waiting = equations
    while waiting:
        later: list[Equation] = []
        for each in waiting:
            unknown, rest = each.reduced(sizes)
            if len(unknown) == 1 and len(axes := next(iter(unknown))) == 1:
                sizes[axes[0]], said[axes[0]] = _divided(rest, unknown[axes], each, origin), each.where
            elif unknown:
                later.append(each)
        if len(later) == len(waiting):
            sizes |= _together(later, sizes, origin)
            later = []
        waiting = later
    _check(equations, sizes, said, origin)
    return sizes


def _divided(total: int, factor: int, each: Equation, origin: str) -> int:
    if factor <= 0 or total < 0 or total % factor:
        raise SourceError(f"{origin}: {each.where} is {each.length} long, which is no multiple of what it holds", do="see that it is whole")
    return total // factor


def _together(equations: list[Equation], sizes: Mapping[str, int], origin: str) -> dict[str, int]:
    """Linear equations in several unknowns, by elimination."""
    lines = []
    for each in equations:
        unknown, length = each.reduced(sizes)
        if all(len(axes) == 1 for axes in unknown):
            lines.append(({axes[0]: Fraction(factor) for axes, factor in unknown.items()}, Fraction(length)))
    solved: dict[str, int] = {}
    pivots: list[Pivot] = []
    for line in lines:
        factors, rest = _less(line, pivots)
        if factors:
            axis, by = min(factors.items())
            pivots.append((axis, {name: factor / by for name, factor in factors.items() if name != axis}, rest / by))
    for axis, others, value in reversed(pivots):
        if others.keys() <= solved.keys():
            found = value - sum(factor * solved[name] for name, factor in others.items())
            solved[axis] = int(found) if found.denominator == 1 and found >= 0 else -1
    open_axes = sorted({axis for each in equations for axes in each.reduced({**sizes, **solved})[0] for axis in axes})
    if open_axes or -1 in solved.values():
        names = open_axes or [axis for axis, size in solved.items() if size < 0]
        raise SourceError(f"{origin}: the shapes do not say how large {', '.join(names)} is", facts=[each.where for each in equations[:6]])
    return solved


def _less(line: Linear, pivots: Iterable[Pivot]) -> Linear:
    """A line without the axes of the pivots."""
    factors, rest = line
    zero = Fraction(0)
    for axis, others, value in pivots:
        by = factors.get(axis, zero)
        left = (factors.keys() | others.keys()) - {axis}
        factors = {name: found for name in left if (found := factors.get(name, zero) - by * others.get(name, zero))}
        rest -= by * value
    return factors, rest


def _check(equations: Iterable[Equation], sizes: Mapping[str, int], said: Mapping[str, str], origin: str) -> None:
    faults = []
    for each in equations:
        total = sum(prod(sizes[axis] for axis in axes) for axes in each.terms)
        if total != each.length:
            axes = dict.fromkeys(axis for term in each.terms for axis in term)
            because = "; ".join(f"{axis} is {sizes[axis]}" + (f" in {said[axis]}" if axis in said else "") for axis in axes)
            faults.append(f"{each.where}: expected {total}, found {each.length} ({because})")
    if faults:
        more = [f"and {len(faults) - 12} more"] if len(faults) > 12 else []
        raise SourceError(
            f"{origin}: {len(faults)} tensors do not fit together", facts=faults[:12] + more, do="see that all files are of one model"
        )
