"""Cutting transfers into tasks: what lies together is done together, nothing too large, nothing too small. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from convsvc.plan.records import PlannedTensor, Task, Transfer, View
from convsvc.tensors.dtypes import size_of

# A task is long enough that starting it costs nothing, and short enough that losing it, or waiting for the last one, costs little.
MOST_BYTES = 1 << 30
FEW_BYTES = 64 << 20


def cut_tasks(
    transfers: Iterable[tuple[str, Transfer]], sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor]
) -> tuple[Task, ...]:
    """Tasks of at most about MOST_BYTES in and out; neighbours share one until it has FEW_BYTES.

    `transfers` come with their unit (layer); a unit's transfers stay together where they fit.
    """
    tasks: list[Task] = []
    batch: list[Transfer] = []
    names: list[str] = []
    size = 0

    def close() -> None:
        nonlocal batch, names, size
        if batch:
            tasks.append(_task(len(tasks), names, batch, sources, targets))
        batch, names, size = [], [], 0

    for unit, pieces in _by_unit(transfers, sources, targets):
        whole = sum(each for _, each in pieces)
        if size and size + whole > MOST_BYTES:
            close()
        for piece, piece_bytes in pieces:
            if size and size + piece_bytes > MOST_BYTES:
                close()
            batch.append(piece)
            size += piece_bytes
            if not names or names[-1] != unit:
                names.append(unit)
        if size >= FEW_BYTES:
            close()
    close()
    return tuple(tasks)


def transfer_bytes(transfer: Transfer, sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor]) -> tuple[int, int]:
    """(bytes read, bytes written), replicas and padding included."""
    read = sum(view.volume * size_of(sources[view.places[0].tensor].dtype) for view in transfer.reads)
    written = sum(view.volume * size_of(targets[place.tensor].dtype) for view in transfer.writes for place in view.places)
    filled = sum(fill.count * size_of(targets[fill.tensor].dtype) for fill in transfer.fills)
    operands = transfer.transform.operands if transfer.transform else ()
    read += sum(view.volume * size_of(sources[view.places[0].tensor].dtype) for operand in operands for view in operand.views)
    return read, written + filled


def cut_transfer(transfer: Transfer, parts: int) -> list[Transfer]:
    """The transfer in up to `parts` pieces along its outermost axis."""
    axis = next((axis for axis in transfer.order if transfer.sizes[axis] > 1), 0)
    size = transfer.sizes[axis] if transfer.sizes else 1
    parts = min(parts, size)
    if parts <= 1:
        return [transfer]
    edges = [size * at // parts for at in range(parts + 1)]
    reads, writes = _split(transfer.reads, axis, edges), _split(transfer.writes, axis, edges)
    pieces = [
        replace(transfer, reads=tuple(r), writes=tuple(w), fills=transfer.fills if at == parts - 1 else ())
        for at, (r, w) in enumerate(zip(reads, writes, strict=True))
    ]
    return [piece for piece in pieces if piece.writes or piece.fills]


def _split(views: Sequence[View], axis: int, edges: Sequence[int]) -> list[list[View]]:
    """The views' parts between neighbouring edges along an axis; every view is looked at once for each part it meets."""
    from bisect import bisect_right

    parts: list[list[View]] = [[] for _ in range(len(edges) - 1)]
    for view in views:
        at = bisect_right(edges, view.starts[axis]) - 1
        while at < len(parts) and edges[at] < view.stops[axis]:
            starts = (*view.starts[:axis], max(view.starts[axis], edges[at]), *view.starts[axis + 1 :])
            stops = (*view.stops[:axis], min(view.stops[axis], edges[at + 1]), *view.stops[axis + 1 :])
            piece = view if (starts, stops) == (view.starts, view.stops) else view.restricted(starts, stops)
            if piece is not None:
                parts[at].append(piece)
            at += 1
    return parts


def _by_unit(
    transfers: Iterable[tuple[str, Transfer]], sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor]
) -> Iterator[tuple[str, list[tuple[Transfer, int]]]]:
    unit: str | None = None
    pieces: list[tuple[Transfer, int]] = []
    for name, transfer in transfers:
        if unit is not None and name != unit:
            yield unit, pieces
            pieces = []
        unit = name
        size = sum(transfer_bytes(transfer, sources, targets))
        cut = cut_transfer(transfer, -(-size // MOST_BYTES)) if size > MOST_BYTES else [transfer]
        pieces += [(piece, sum(transfer_bytes(piece, sources, targets))) for piece in cut]
    if unit is not None:
        yield unit, pieces


def _task(
    number: int,
    units: Sequence[str],
    transfers: Sequence[Transfer],
    sources: Sequence[PlannedTensor],
    targets: Sequence[PlannedTensor],
) -> Task:
    sizes = [transfer_bytes(each, sources, targets) for each in transfers]
    first, last = units[0].rstrip("."), units[-1].rstrip(".")
    name = first if first == last else f"{first} to {last}"
    return Task(number, name, tuple(transfers), sum(read for read, _ in sizes), sum(written for _, written in sizes))
