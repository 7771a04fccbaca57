"""Reads the logical tensors of two checkpoints piece by piece into two buffers, and counts where they differ. Memory is bounded.

A piece is a box of a logical tensor; both sides are brought into its row-major order and one dtype, by the steps with which tensors are
converted. Further copies that a side holds are compared with its first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from convsvc.execute.disk.io import Reader
from convsvc.execute.kernels.copying import UNSIGNED
from convsvc.execute.kernels.transforms import cast
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.plan.pairs import Pair, Side
from convsvc.plan.records import Place, PlannedTensor, Transfer, View
from convsvc.roots import ANYWHERE, Roots
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import FLOATS, size_of

Bytes = npt.NDArray[np.uint8]
# Of a buffer of each side; pieces share one until it is full.
BATCH_BYTES = 32 << 20
ALIGNMENT = 64
BUDGET = Budget(step_bytes=16 << 20)
# Elements that are looked at one by one at a time, where two pieces differ.
CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of the `pair`-th pair, and where its elements begin in a buffer."""

    pair: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    at: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))


@dataclass(slots=True)
class Difference:
    """Where a tensor differs: how many elements, by how much at most (None: not a number), the first with both its values."""

    elements: int = 0
    max_abs: float | None = None
    first: tuple[int, ...] = ()
    values: tuple[str, str] = ("", "")

    def as_dict(self) -> dict[str, Any]:
        return {"elements": self.elements, "max_abs": self.max_abs, "first": list(self.first), "a": self.values[0], "b": self.values[1]}


@dataclass(slots=True)
class Counted:
    """What was compared. `between` by the pair's number; `copies` by (side, pair): copies that a side itself does not hold alike."""

    bytes_read: int = 0
    between: dict[int, Difference] = field(default_factory=dict)
    copies: dict[tuple[str, int], Difference] = field(default_factory=dict)


def cut_batches(pairs: Sequence[Pair]) -> list[list[Piece]]:
    """All elements of all pairs, in pieces that fit a buffer together."""
    batches: list[list[Piece]] = [[]]
    at = 0
    for number, pair in enumerate(pairs):
        itemsize = size_of(pair.dtype)
        for starts, stops in _boxes(pair.tensor.sizes, BATCH_BYTES // itemsize):
            size = prod(stop - start for start, stop in zip(starts, stops, strict=True)) * itemsize
            if at + size > BATCH_BYTES and batches[-1]:
                batches.append([])
                at = 0
            batches[-1].append(Piece(number, starts, stops, at))
            at += -(-size // ALIGNMENT) * ALIGNMENT
    return [batch for batch in batches if batch]


def compare_pairs(
    sides: tuple[Side, Side],
    pairs: Sequence[Pair],
    batches: Sequence[Sequence[Piece]],
    told: Callable[[int, int], None],
    roots: Roots = ANYWHERE,
) -> Counted:
    """Reads everything, every copy too. `told` is called after each batch with its number and the bytes read for it."""
    counted = Counted()
    with ExitStack() as stack:
        loaders = [_Loader(side, name, pairs, roots, stack) for name, side in zip("ab", sides, strict=True)]
        threads = stack.enter_context(ThreadPoolExecutor(2, "convsvc-compare"))
        held, spare = [aligned_bytes(BATCH_BYTES) for _ in loaders], aligned_bytes(BATCH_BYTES)
        for number, batch in enumerate(batches):
            before = counted.bytes_read
            list(threads.map(lambda loader, buffer, batch=batch: loader.load(batch, 0, buffer), loaders, held))
            for piece in batch:
                _count(counted.between, piece.pair, pairs[piece.pair], piece, (held[0], held[1]))
            for loader, first in zip(loaders, held, strict=True):
                _compare_copies(loader, batch, first, spare, counted)
            counted.bytes_read = sum(loader.reader.bytes_read for loader in loaders)
            told(number, counted.bytes_read - before)
        for loader in loaders:
            loader.reader.check_unchanged()
    return counted


class _Loader:
    """Brings pieces of one side into a buffer."""

    def __init__(self, side: Side, name: str, pairs: Sequence[Pair], roots: Roots, stack: ExitStack) -> None:
        self.name = name
        self._side, self.pairs = side, pairs
        self.reader = stack.enter_context(closing(Reader(side.files, -1, roots)))
        self._tiles = Tiles(self.reader, BUDGET)

    def copies(self, pair: int) -> tuple[tuple[View, ...], ...]:
        return self.pairs[pair].a if self.name == "a" else self.pairs[pair].b

    def load(self, batch: Sequence[Piece], copy: int, buffer: Bytes) -> None:
        """Fills the pieces' parts of the buffer with the elements of the side's `copy`-th copy."""
        wanted = [PlannedTensor(0, "", self.pairs[piece.pair].dtype, piece.shape, piece.at, 0) for piece in batch]
        tensors = Tensors(self._side.tensors, wanted)
        steps = (
            step
            for at, piece in enumerate(batch)
            for step in compile_steps(_transfer(piece, self.copies(piece.pair)[copy], at), tensors, BUDGET)
        )
        with closing(self._tiles.produce(steps)) as produced:
            for write, data in produced:
                found = np.frombuffer(data, np.uint8).reshape(write.times, write.size_bytes)
                for place in write.places:
                    start, step = batch[place.tensor].at + place.data_offset, write.step_bytes or write.size_bytes
                    stop = start + (write.times - 1) * step + write.size_bytes
                    as_strided(buffer[start:stop], (write.times, write.size_bytes), (step, 1))[:] = found


def _transfer(piece: Piece, views: Sequence[View], at: int) -> Transfer:
    """The piece's elements from a side's views to its own row-major order."""
    box = Box(piece.starts, piece.stops)
    reads = tuple(part for view in views if (part := view.restricted(box)) is not None)
    strides = tuple(prod(piece.shape[axis + 1 :]) for axis in range(len(piece.shape)))
    sizes = piece.stops
    return Transfer("", sizes, tuple(range(len(sizes))), reads, (View(piece.starts, piece.stops, strides, (Place(at, 0),)),))


def _compare_copies(loader: _Loader, batch: Sequence[Piece], first: Bytes, spare: Bytes, counted: Counted) -> None:
    """Each further copy of a side with its first, which `first` holds."""
    copy = 1
    while held := [piece for piece in batch if len(loader.copies(piece.pair)) > copy]:
        loader.load(held, copy, spare)
        for piece in held:
            _count(counted.copies, (loader.name, piece.pair), loader.pairs[piece.pair], piece, (first, spare))
        copy += 1


def _count(found: dict[Any, Difference], key: Any, pair: Pair, piece: Piece, buffers: tuple[Bytes, Bytes]) -> None:
    """Adds the elements of a piece in which the buffers differ, as bits; where one was cast, as numbers."""
    itemsize, count = size_of(pair.dtype), prod(piece.shape)
    one, other = (buffer[piece.at : piece.at + count * itemsize].view(UNSIGNED[itemsize]) for buffer in buffers)
    for start in range(0, count, CHUNK_ELEMENTS):
        left, right = one[start : start + CHUNK_ELEMENTS], other[start : start + CHUNK_ELEMENTS]
        if np.array_equal(left, right):
            continue
        where = np.flatnonzero(left != right)
        values = [_numbers(side[where], pair.dtype) for side in (left, right)]
        if pair.dtypes[0] != pair.dtypes[1]:
            kept = ~((values[0] == values[1]) | (np.isnan(values[0]) & np.isnan(values[1])))
            where, values = where[kept], [side[kept] for side in values]
        if where.size:
            _add(found.setdefault(key, Difference()), piece, start + int(where[0]), values)


def _add(difference: Difference, piece: Piece, element: int, values: list[npt.NDArray[np.float64]]) -> None:
    with np.errstate(all="ignore"):
        apart = np.abs(values[0] - values[1])
    apart = apart[~np.isnan(apart)]
    if apart.size:
        difference.max_abs = max(difference.max_abs or 0.0, float(apart.max()))
    if not difference.elements:
        index = np.unravel_index(element, piece.shape) if piece.shape else ()
        difference.first = tuple(int(at) + start for at, start in zip(index, piece.starts, strict=True))
        difference.values = (repr(float(values[0][0])), repr(float(values[1][0])))
    difference.elements += values[0].size


def _numbers(bits: Any, dtype: str) -> npt.NDArray[np.float64]:
    """The values of bit patterns; those of types that are neither floats nor whole numbers are the patterns themselves."""
    if dtype in FLOATS:
        wide: npt.NDArray[np.float64] = cast(bits, dtype, "F64").view(np.float64)
        return wide
    signed = dtype in ("I8", "I16", "I32", "I64")
    whole: npt.NDArray[np.float64] = (bits.view(f"i{bits.itemsize}") if signed else bits).astype(np.float64)
    return whole


def _boxes(sizes: tuple[int, ...], most: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The tensor in row-major boxes of at most so many elements."""
    for axis, size in enumerate(sizes):
        row = prod(sizes[axis + 1 :])
        if row <= most:
            rows = max(1, most // max(1, row))
            for outer in np.ndindex(*sizes[:axis]):
                before = tuple(int(at) for at in outer)
                for start in range(0, size, rows):
                    stop = min(size, start + rows)
                    yield (*before, start, *(0 for _ in sizes[axis + 1 :])), (*(at + 1 for at in before), stop, *sizes[axis + 1 :])
            return
    yield (), ()
