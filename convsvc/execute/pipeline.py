"""Does steps: fills an input buffer, moves elements to the output buffer, hands out what is to be written.

While one step is written, the next one is copied and the one after it is read, each by a thread of its own. A buffer is used
again once its last user has let go of it; whoever wants it waits for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

import numpy as np
import numpy.typing as npt

from convsvc.execute.check.anew import Anew
from convsvc.execute.check.overflows import Overflows
from convsvc.execute.kernels.copying import view_bits
from convsvc.execute.kernels.dequantising import dequantise
from convsvc.execute.kernels.quantising import largest_of, quantise
from convsvc.execute.kernels.transforms import cast_copy, merge_lora
from convsvc.execute.steps.alignment import aligned_bytes
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.checks import Check
from convsvc.execute.steps.inputs import Read
from convsvc.execute.steps.records import Copy, Step, Write

Bytes = npt.NDArray[np.uint8]

# One step is read, one is copied, one is written.
SLOTS = 3
# A wide tile is written, or read, while the next one is worked on.
WIDE_SLOTS = 2
# Steps that are handed out at once: enough that pieces of the next wide tile are read while one is written.
AHEAD = 16


class RangeReader(Protocol):
    """Where ranges of source files are read; `disk.io.Reader` is one."""

    def read(self, read: Read, target: memoryview) -> None: ...


class CopyChecker(Protocol):
    """Who compares copies with what is in the input buffer; `check.copies.Checker` is one."""

    def check(self, check: Check, held: Bytes) -> None: ...


@dataclass(slots=True)
class Buffer:
    """Memory that one step after the other uses. `free` is set once its last user is done with it."""

    memory: Bytes
    free: Event = field(default_factory=Event)

    def at_least(self, size_bytes: int) -> Bytes:
        """The memory, which is enough for every step that keeps to its budget. What it held may be gone."""
        if self.memory.size < size_bytes:
            self.memory = aligned_bytes(size_bytes)
        return self.memory


class Ring:
    """Buffers that are taken in turn. What is not touched takes no memory, so they have their full size from the beginning."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._buffers = [Buffer(aligned_bytes(size_bytes)) for _ in range(count)]
        self._number = 0
        for buffer in self._buffers:
            buffer.free.set()

    def take(self) -> tuple[Buffer, Event]:
        """The next buffer, and what to wait for before using it. The taker sets `buffer.free` when it is done."""
        self._number = (self._number + 1) % len(self._buffers)
        buffer = self._buffers[self._number]
        before, buffer.free = buffer.free, Event()
        return buffer, before


@dataclass(slots=True)
class Use:
    """A step's use of a buffer: what is awaited before (None: it goes on with what it holds), what is said at the end (None: held on)."""

    buffer: Buffer
    before: Event | None
    after: Event | None

    def begin(self, size_bytes: int) -> Bytes:
        if self.before is None:
            return self.buffer.memory
        self.before.wait()
        return self.buffer.at_least(size_bytes)

    def end(self) -> None:
        if self.after is not None:
            self.after.set()


@dataclass(slots=True)
class Work:
    """A step under way."""

    step: Step
    taken: Use
    given: Use
    copied: Future[None] | None = None


class Tiles:
    """The buffers of a task, and the threads which work on them: one reads, one copies, the caller's writes.

    `overflows` counts values that became infinite, of all that was produced so far, `anew` blocks that got new scales.
    """

    def __init__(self, reader: RangeReader, budget: Budget, checker: CopyChecker | None = None) -> None:
        self._reader = reader
        self._checker = checker
        self._inputs, self._outputs = Ring(SLOTS, budget.step_bytes), Ring(SLOTS, budget.step_bytes)
        self._wide = Ring(WIDE_SLOTS, budget.wide_bytes)
        self._held: Buffer | None = None
        self.overflows = Overflows()
        self.anew = Anew()
        self._largest: dict[int, float] = {}

    def produce(self, steps: Iterable[Step]) -> Generator[tuple[Write, memoryview], None, None]:
        """Each write of each step with its bytes, which are valid until the next one is asked for.

        Close it before the reader: a thread may still be reading.
        """
        with ThreadPoolExecutor(1, "convsvc-read") as reading, ThreadPoolExecutor(1, "convsvc-copy") as copying, _queue() as under_way:
            for step in steps:
                if len(under_way) == AHEAD:
                    yield from self._written(under_way[0])
                    under_way.popleft()
                work = Work(step, *self._uses(step))
                under_way.append(work)
                filled = reading.submit(self._fill, work)
                work.copied = copying.submit(_copy, work, filled, self.overflows, self.anew, self._largest)
            while under_way:
                yield from self._written(under_way[0])
                under_way.popleft()

    def _uses(self, step: Step) -> tuple[Use, Use]:
        """The step's input and output buffer."""
        if step.held is None:
            return _own(self._inputs), _own(self._outputs)
        before = None
        if step.held.first:
            self._held, before = self._wide.take()
        assert self._held is not None, "a tile's steps begin with the first"
        shared = Use(self._held, before, self._held.free if step.held.last else None)
        return (shared, _own(self._outputs)) if step.held.side == "input" else (_own(self._inputs), shared)

    def _fill(self, work: Work) -> None:
        step, buffer = work.step, work.taken.begin(work.step.input_bytes)
        for read in step.reads:
            self._reader.read(read, buffer.data[read.start : read.start + read.total_bytes])
        for decoding in step.decodings:
            count, unscaled = dequantise(decoding, buffer)
            self.overflows.add(decoding.tensor, count)
            self.overflows.met(decoding.tensor, unscaled)
        for check in step.checks:
            assert self._checker is not None, "who has steps with checks has a checker"
            self._checker.check(check, buffer)

    def _written(self, work: Work) -> Iterator[tuple[Write, memoryview]]:
        assert work.copied is not None
        work.copied.result()
        for write in work.step.writes:
            data = (work.taken if write.direct else work.given).buffer.memory.data
            yield write, data[write.start : write.start + write.total_bytes]
        work.taken.end()
        work.given.end()


@contextmanager
def _queue() -> Iterator[deque[Work]]:
    """Steps under way; when the work is given up, nobody waits for a buffer any more."""
    queue: deque[Work] = deque()
    try:
        yield queue
    finally:
        for work in queue:
            work.taken.buffer.free.set()
            work.given.buffer.free.set()
            work.taken.end()
            work.given.end()


def _own(ring: Ring) -> Use:
    buffer, before = ring.take()
    return Use(buffer, before, buffer.free)


def _copy(work: Work, filled: Future[None], overflows: Overflows, anew: Anew, largest: dict[int, float]) -> None:
    filled.result()
    step, taken = work.step, work.taken.buffer.memory
    given = work.given.begin(step.output_bytes)
    source = taken if step.merge is None else merge_lora(step.merge, taken).reshape(-1).view(np.uint8)
    for copy in step.copies:
        overflows.add(copy.tensor, _do(copy, source, given))
    for measure in step.measures:
        largest[measure.group] = max(largest.get(measure.group, 0.0), largest_of(measure, given))
    for encode in step.encodes:
        anew.add(encode, quantise(encode, given, taken, largest.get(encode.group)))
    held_on = step.held is not None and step.held.side == "input"
    if not held_on and not any(write.direct for write in step.writes):
        work.taken.end()


def _do(copy: Copy, source: Bytes, target: Bytes) -> int:
    taken = view_bits(source, copy.source_start, copy.shape, copy.source_strides, copy.source_dtype)
    given = view_bits(target, copy.target_start, copy.shape, copy.target_strides, copy.target_dtype)
    return cast_copy(given, taken, copy.source_dtype, copy.target_dtype)
