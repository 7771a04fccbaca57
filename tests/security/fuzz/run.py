"""Feeds inputs to readers and counts what comes out."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any

from convsvc.errors import ConvsvcError
from tests.security.fuzz.readers import Reader

# Processor time of this process: a busy machine makes no hang of a slow minute.
INPUT_LIMIT_S = 3.0
_SHOWN_CRASHES = 30


class Hang(BaseException):
    """An input took longer than it may. Not an Exception, so that no reader swallows it."""


@dataclass(slots=True)
class Outcome:
    """What became of one reader's inputs: by the error's class, "accepted", and those that broke it."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest: Any = None


@dataclass(slots=True)
class Crash:
    """An input that got out what it must not; `where` tells crashes apart."""

    reader: str
    where: str
    story: str
    given: Any


@dataclass(slots=True)
class Report:
    outcomes: dict[str, Outcome]
    crashes: dict[str, Crash] = field(default_factory=dict)
    peak_rss_bytes: int = 0

    @property
    def inputs(self) -> int:
        return sum(sum(each.counts.values()) for each in self.outcomes.values())


def fuzz(readers: Sequence[Reader], inputs: int, seed: int, done: Callable[[str, Outcome], None] = lambda name, outcome: None) -> Report:
    """`inputs` inputs shared among the readers; `done` is told of each that has had its own. The same seed draws the same inputs."""
    report = Report({reader.name: Outcome() for reader in readers})
    shares = sum(reader.share for reader in readers)
    with _stopwatch():
        for reader in readers:
            rng = Random(f"{seed} {reader.name}")
            for _ in range(max(1, round(inputs * reader.share / shares))):
                _one(reader, reader.make(rng), report)
            done(reader.name, report.outcomes[reader.name])
    report.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return report


def _one(reader: Reader, given: Any, report: Report) -> None:
    outcome, began = report.outcomes[reader.name], time.process_time()
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_LIMIT_S)
        reader.feed(given)
        result = "accepted"
    except ConvsvcError as error:
        result = type(error).__name__
        str(error).encode("utf-8", "surrogatepass")
    except (Exception, Hang) as error:
        result = f"CRASH {type(error).__name__}"
        _keep(report, reader, error, given)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    outcome.counts[result] += 1
    took_s = time.process_time() - began
    outcome.seconds += took_s
    if took_s > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest = took_s, given


def _keep(report: Report, reader: Reader, error: BaseException, given: Any) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/convsvc/" in frame.filename] or frames
    where = f"{type(error).__name__} at {ours[-1].filename.rpartition('/convsvc/')[2]}:{ours[-1].lineno}"
    if where not in report.crashes and len(report.crashes) < _SHOWN_CRASHES:
        story = "".join(traceback.format_list(frames[-4:])) + f"{type(error).__name__}: {str(error)[:300]}"
        report.crashes[where] = Crash(reader.name, where, story, given)


@contextmanager
def _stopwatch() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"an input took over {INPUT_LIMIT_S} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)
