"""What lies where, told in few words: a trillion parameters in thousands of rank files are some ten thousand numbers. Pure.

Everything that repeats is said once and referred to by its number: templates of names, sets of files, boxes, and the lists of parts that
tensors of many layers and experts have in common.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from operator import sub
from typing import Any, NamedTuple

from convsvc.plan.describe import join_boxes
from convsvc.tensors.boxes import Box

NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")
FORM = 1  # of the data; a page shows what it was written for


class Part(NamedTuple):
    """A box of a logical tensor, half open, in the stored tensor `name` of each of `files` (by number)."""

    name: str
    files: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]


class Lying(NamedTuple):
    """A logical tensor, its axes and extents, and for each side the parts in which it lies there."""

    name: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    sides: tuple[Sequence[Part], ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One checkpoint: what it is for people, and its files with their sizes in bytes."""

    title: str
    format: str
    path: str
    files: Sequence[tuple[str, int]]


@dataclass(slots=True)
class _Table:
    """Things that are said once, by their numbers."""

    numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, thing: Hashable) -> int:
        return self.numbers.setdefault(thing, len(self.numbers))

    def all(self) -> list[Any]:
        return list(self.numbers)


class _Words:
    """The tables of one picture."""

    def __init__(self) -> None:
        self.names, self.sets, self.boxes, self.places = _Table(), _Table(), _Table(), _Table()

    def place(self, numbers: Sequence[int], parts: Iterable[Part]) -> int:
        """The number of a list of parts: what is alike but for the layer or the expert is one."""
        grouped: dict[tuple[int, tuple[int, ...]], list[Box]] = {}
        for part in parts:
            grouped.setdefault((self.names.number(relative(part.name, numbers)), part.files), []).append(Box(part.starts, part.stops))
        alike: dict[tuple[int, int], list[int]] = {}
        for (name, files), boxes in grouped.items():
            alike.setdefault((name, self._box(boxes)), []).extend(files)
        return self.places.number(tuple((name, self.sets.number(runs(files)), box) for (name, box), files in alike.items()))

    def _box(self, boxes: list[Box]) -> int:
        """What a file has of the tensor: the box around it, how many elements that are, and in how many boxes they lie."""
        joined = join_boxes(boxes)
        starts = tuple(map(min, zip(*[box.starts for box in joined], strict=True)))
        stops = tuple(map(max, zip(*[box.stops for box in joined], strict=True)))
        count = sum(prod(map(sub, box.stops, box.starts)) for box in joined)
        return self.boxes.number((starts, stops, count, len(joined)))


def compose_picture(title: str, facts: dict[str, Any], sides: Sequence[Side], tensors: Iterable[Lying]) -> dict[str, Any]:
    """The picture's data, as JSON.

    `tensors`: [template, axes, sizes, rows]; a row is the template's numbers, how many tensors follow one another in the last of them, and
    for each side a number in `places`. A place is a list of [name, files, box], numbers in `names` (a template, and what its numbers are
    less than the tensor's own), `sets` (runs of [first, step, count] files), `boxes` (starts, stops, elements, pieces).
    """
    words, rows = _Words(), _Rows()
    for lying in _joined(tensors):
        numbers = tuple(map(int, NUMBER.findall(lying.name)))
        rows.add(
            (NUMBER.sub("{}", lying.name), lying.axes, lying.sizes), numbers, tuple(words.place(numbers, side) for side in lying.sides)
        )
    return {
        "form": FORM,
        "title": title,
        "facts": facts,
        "sides": [{"title": side.title, "format": side.format, "path": side.path, "files": list(map(list, side.files))} for side in sides],
        "tensors": rows.all(),
        "places": words.places.all(),
        "names": words.names.all(),
        "sets": words.sets.all(),
        "boxes": words.boxes.all(),
    }


class _Rows:
    """Tensors by template and sizes; neighbours in the last number that lie alike are one row."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], list[list[int]]] = {}

    def add(self, kind: tuple[Any, ...], numbers: tuple[int, ...], places: tuple[int, ...]) -> None:
        rows = self._found.setdefault(kind, [])
        last, at = (rows[-1] if rows else None), len(numbers)
        if last and numbers and [*last[: at - 1], last[at - 1] + last[at], *last[at + 1 :]] == [*numbers, *places]:
            last[at] += 1
        else:
            rows.append([*numbers, 1, *places])

    def all(self) -> list[Any]:
        return [[*kind, rows] for kind, rows in self._found.items()]


def _joined(tensors: Iterable[Lying]) -> Iterator[Lying]:
    """Tensors in the order of their numbers within a template, one that came in several pieces as one."""
    found: dict[str, Lying] = {}
    for one in tensors:
        before = found.get(one.name)
        sides = one.sides if before is None else tuple((*old, *new) for old, new in zip(before.sides, one.sides, strict=True))
        found[one.name] = one._replace(sides=sides)
    yield from sorted(found.values(), key=lambda one: tuple(map(int, NUMBER.findall(one.name))))


def relative(name: str, numbers: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """A stored name as a template, and what its numbers are less than the logical tensor's, in order; further ones are as they are.

    >>> relative("model0/layers.3.experts.1.w", (11, 5))
    ('model0/layers.{}.experts.{}.w', (8, 4))
    """
    there = list(map(int, NUMBER.findall(name)))
    less = [numbers[at] - number if at < len(numbers) else -number for at, number in enumerate(there)]
    return NUMBER.sub("{}", name), tuple(less)


def runs(files: Iterable[int]) -> tuple[tuple[int, int, int], ...]:
    """Numbers as runs of (first, step, count).

    >>> runs([0, 4, 8, 12, 13]), runs([7])
    (((0, 4, 4), (13, 1, 1)), ((7, 1, 1),))
    """
    found: list[tuple[int, int, int]] = []
    for number in sorted(set(files)):
        if found:
            first, step, count = found[-1]
            if count == 1:
                found[-1] = (first, number - first, 2)
                continue
            if number == first + step * count:
                found[-1] = (first, step, count + 1)
                continue
        found.append((number, 1, 1))
    return tuple(found)
