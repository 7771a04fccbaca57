"""Cutting transfers into tasks: what lies together is done together, nothing too large, nothing too small. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, groupby
from math import prod
from operator import sub
from types import MappingProxyType

from convsvc.encodings.base import Form
from convsvc.plan.records import Place, PlannedTensor, Task, Transfer, View, scaled_with
from convsvc.tensors.dtypes import size_of
from convsvc.tensors.quick import quick

# A task is long enough that starting it costs nothing, and short enough that losing it, or waiting for the last one, costs little.
MOST_BYTES = 1 << 30
FEW_BYTES = 64 << 20
# An axis rarely divides evenly: a piece this much larger than MOST_BYTES is not cut again, as its halves would be no better.
TOLERANCE = 1.25
NOTHING: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Piece:
    """A transfer, or a part of one, with the bytes it reads and writes: they are counted once."""

    transfer: Transfer
    read: int
    written: int

    @property
    def size_bytes(self) -> int:
        return self.read + self.written


def cut_tasks(
    transfers: Iterable[tuple[str, Transfer]],
    sources: Sequence[PlannedTensor],
    targets: Sequence[PlannedTensor],
    *,
    by_file: bool = False,
) -> tuple[Task, ...]:
    """Tasks of at most about MOST_BYTES in and out; neighbours share one until it has FEW_BYTES.

    `transfers` come with their unit (layer); a unit's transfers stay together where they fit. `by_file`: a target file is one task's.
    """
    read, written = element_sizes(sources), element_sizes(targets)
    if by_file:
        transfers = _by_unit(transfers)
    coded = {number for number, tensor in enumerate(targets) if tensor.coded is not None}
    one_scale = {number: name for number in coded if (name := scaled_with(targets[number])) is not None}
    tasks: list[Task] = []
    batch: list[_Piece] = []
    names: list[str] = []
    size = 0

    def close() -> None:
        nonlocal batch, names, size
        if batch:
            tasks.append(_task(len(tasks), names, batch))
        batch, names, size = [], [], 0

    for unit, members in groupby(transfers, key=lambda each: each[0]):
        pieces = [
            piece
            for _, transfer in members
            for piece in _cut_down(
                transfer, transfer.order, read, written, by_file or (bool(coded) and not coded.isdisjoint(_written(transfer))), one_scale
            )
        ]
        if size and size + sum(piece.size_bytes for piece in pieces) > MOST_BYTES:
            close()
        for bundle in _bundles(pieces, targets) if by_file else ([piece] for piece in pieces):
            together = sum([piece.size_bytes for piece in bundle])
            if size and size + together > MOST_BYTES:
                close()
            batch += bundle
            size += together
            if not names or names[-1] != unit:
                names.append(unit)
        if size >= FEW_BYTES:
            close()
    close()
    return tuple(tasks)


def _by_unit(transfers: Iterable[tuple[str, Transfer]]) -> list[tuple[str, Transfer]]:
    """A unit's transfers one after the other, units as they first come: what is stored layer by layer comes key by key."""
    units: dict[str, list[tuple[str, Transfer]]] = {}
    for unit, transfer in transfers:
        units.setdefault(unit, []).append((unit, transfer))
    return [each for members in units.values() for each in members]


def _bundles(pieces: Sequence[_Piece], targets: Sequence[PlannedTensor]) -> list[list[_Piece]]:
    """The pieces that write to the same files together, in their order."""
    first = list(range(len(pieces)))
    writers: dict[int, int] = {}

    def found(number: int) -> int:
        while first[number] != number:
            number = first[number]
        return number

    for number, piece in enumerate(pieces):
        tensors = chain(_written(piece.transfer), (fill.tensor for fill in piece.transfer.fills))
        for file in {targets[tensor].file for tensor in tensors}:
            one, other = sorted((found(writers.setdefault(file, number)), found(number)))
            first[other] = one
    bundles: dict[int, list[_Piece]] = {}
    for number, piece in enumerate(pieces):
        bundles.setdefault(found(number), []).append(piece)
    return list(bundles.values())


def _written(transfer: Transfer) -> Iterator[int]:
    return (place.tensor for view in transfer.writes for place in view.places)


def element_sizes(tensors: Sequence[PlannedTensor]) -> list[float]:
    """Bytes of an element of each; with their factors where they are quantised."""
    return [size_of(tensor.dtype) if tensor.coded is None else _coded_size(tensor.coded.form) for tensor in tensors]


@lru_cache(maxsize=1024)
def _coded_size(form: Form) -> float:
    return form.bits / 8


def transfer_bytes(transfer: Transfer, source_sizes: Sequence[float], target_sizes: Sequence[float]) -> tuple[int, int]:
    """(bytes read, bytes written), copies and padding included; `element_sizes` of either side."""
    read = sum([prod(map(sub, stops, starts)) * source_sizes[places[0].tensor] for starts, stops, _, places in transfer.reads])
    operands = transfer.transform.operands if transfer.transform else ()
    further = [*transfer.checks, *(view for operand in operands for view in (*operand.views, *operand.checks))]
    read += sum([view.volume * sum([source_sizes[tensor] for tensor, _ in view.places]) for view in further])
    read += sum([run.count * source_sizes[run.tensor] for run in transfer.padding])
    written = sum(
        [
            prod(map(sub, stops, starts))
            * (target_sizes[places[0].tensor] if len(places) == 1 else sum([target_sizes[tensor] for tensor, _ in places]))
            for starts, stops, _, places in transfer.writes
        ]
    )
    filled = sum([fill.count * target_sizes[fill.tensor] for fill in transfer.fills])
    return round(read), round(written + filled)


def cut_transfer(
    transfer: Transfer, parts: int, axis: int | None = None, whole: bool = False, together: Mapping[int, str] = NOTHING
) -> list[Transfer]:
    """The transfer in up to `parts` pieces along an axis, or along its outermost; with `whole`, through no view that is written, nor
    between those that are `together` (by their tensors' numbers)."""
    if axis is None:
        axis = next((axis for axis in transfer.order if transfer.sizes[axis] > 1), 0)
    size = transfer.sizes[axis] if transfer.sizes else 1
    parts = min(parts, size)
    if parts <= 1:
        return [transfer]
    edges = [size * at // parts for at in range(parts + 1)]
    if whole:
        edges = _between_whole(edges, _taken(transfer, axis, together))
    reads, writes, checks = (_split(views, axis, edges) for views in (transfer.reads, transfer.writes, transfer.checks))
    pieces = [
        replace(transfer, reads=tuple(r), writes=tuple(w), checks=tuple(c), fills=(), padding=())
        for r, w, c in zip(reads, writes, checks, strict=True)
    ]
    pieces[-1] = replace(pieces[-1], fills=transfer.fills, padding=transfer.padding)
    return [piece for piece in pieces if piece.writes or piece.fills or piece.padding]


def _taken(transfer: Transfer, axis: int, together: Mapping[int, str]) -> list[tuple[int, int]]:
    """From where to where along an axis nothing is cut, in order."""
    spans: dict[str, tuple[int, int]] = {}
    alone: list[tuple[int, int]] = []
    for view in transfer.writes:
        start, stop = view.starts[axis], view.stops[axis]
        name = together.get(view.places[0].tensor)
        if name is None:
            alone.append((start, stop))
        else:
            first, last = spans.get(name, (start, stop))
            spans[name] = (min(first, start), max(last, stop))
    return sorted([*alone, *spans.values()])


def _cut_down(
    transfer: Transfer,
    axes: Sequence[int],
    source_sizes: Sequence[float],
    target_sizes: Sequence[float],
    whole: bool,
    together: Mapping[int, str],
) -> Iterator[_Piece]:
    """The transfer in pieces of about MOST_BYTES: along the first axis, and along the next where the first is too short.

    With `whole`, nothing that is written is cut: it is encoded in blocks, those that are `together` with one scale.
    """
    piece = _Piece(transfer, *transfer_bytes(transfer, source_sizes, target_sizes))
    if piece.size_bytes <= MOST_BYTES * TOLERANCE or not axes:
        yield piece
        return
    for part in cut_transfer(transfer, -(-piece.size_bytes // MOST_BYTES), axes[0], whole, together):
        yield from _cut_down(part, axes[1:], source_sizes, target_sizes, whole, together)


def _between_whole(edges: Sequence[int], taken: Sequence[tuple[int, int]]) -> list[int]:
    """The edges, each moved down to where no view goes on; `taken` are the views' starts and stops, in order.

    >>> _between_whole([0, 5, 10, 16], [(0, 4), (4, 8), (8, 16)])
    [0, 4, 8, 16]
    """
    free, end = [], 0
    for start, stop in taken:
        if start >= end:
            free.append(start)
        end = max(end, stop)
    inner = {free[at - 1] for edge in edges[1:-1] if (at := bisect_right(free, edge))}
    return sorted({edges[0], *inner, edges[-1]})


def _split(views: Sequence[View], axis: int, edges: Sequence[int]) -> list[list[View]]:
    """The views' parts between neighbouring edges along an axis; every view is looked at once for each part it meets."""
    parts: list[list[View]] = [[] for _ in range(len(edges) - 1)]
    for view in views:
        at = bisect_right(edges, view.starts[axis]) - 1
        if view.stops[axis] <= edges[at + 1]:  # by far the most
            parts[at].append(view)
            continue
        while at < len(parts) and edges[at] < view.stops[axis]:
            parts[at].append(_between(view, axis, edges[at], edges[at + 1]))
            at += 1
    return parts


def _between(view: View, axis: int, start: int, stop: int) -> View:
    """The part of a view between two coordinates of one axis, which it must meet."""
    first, last = max(view.starts[axis], start), min(view.stops[axis], stop)
    if (first, last) == (view.starts[axis], view.stops[axis]):
        return view
    shift = (first - view.starts[axis]) * view.strides[axis]
    starts, stops, strides, places = view
    if shift:
        places = tuple([quick(Place, (tensor, offset + shift)) for tensor, offset in places])
    return quick(
        View,
        ((*starts[:axis], first, *starts[axis + 1 :]), (*stops[:axis], last, *stops[axis + 1 :]), strides, places),
    )


def _task(number: int, units: Sequence[str], pieces: Sequence[_Piece]) -> Task:
    first, last = units[0].rstrip("."), units[-1].rstrip(".")
    name = first if first == last else f"{first} to {last}"
    transfers = tuple(piece.transfer for piece in pieces)
    return Task(number, name, transfers, sum(piece.read for piece in pieces), sum(piece.written for piece in pieces))
