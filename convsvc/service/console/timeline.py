"""A job's run in time: its phases one after the other, and how fast it wrote. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from convsvc.service.store.looking import Moved
from convsvc.service.store.states import ENDED
from convsvc.service.views import EventView

KINDS = frozenset({"submitted", "state", "phase"})
MOST_POINTS = 120


@dataclass(frozen=True, slots=True)
class Phase:
    """`name` is a state (queued, planning, canceling) or what the driver calls what it does; `stop` is None of the one that lasts."""

    name: str
    start: datetime
    stop: datetime | None = None

    def seconds(self, now: datetime) -> float:
        return max(0.0, ((self.stop or now) - self.start).total_seconds())


def phases_of(events: Iterable[EventView]) -> list[Phase]:
    """The phases of the newest run. A job that was put back, and taken up again, is queued and planned once more.

    >>> from datetime import timezone
    >>> def event(second, kind, **data):
    ...     return EventView(second, datetime(2024, 1, 1, 0, 0, second, tzinfo=timezone.utc), kind, data)
    >>> run = [event(1, "submitted", state="queued"), event(2, "state", state="planning"), event(3, "state", state="running"),
    ...        event(3, "phase", phase="write"), event(9, "state", state="succeeded")]
    >>> [(phase.name, phase.seconds(run[-1].at)) for phase in phases_of(run)]
    [('queued', 1.0), ('planning', 1.0), ('write', 6.0)]
    """
    found: list[Phase] = []
    for event in events:
        name = str(event.data.get("phase") or event.data.get("state") or "")
        if event.data.get("event") == "retry":
            found = []
        # What runs, seals and verifies has a phase of a better name, said at the same moment or just before.
        if event.kind == "state" and name in {"running", "sealing", "verifying"}:
            continue
        if found and found[-1].stop is None:
            found[-1] = Phase(found[-1].name, found[-1].start, event.at)
        if name not in ENDED:
            found.append(Phase(name, event.at))
    return found


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase on a line of 1000 units; `width` is at least 2, so that it is seen."""

    phase: Phase
    seconds: float
    left: float
    width: float


def bars_of(phases: Sequence[Phase], now: datetime) -> list[Bar]:
    """The phases side by side, as wide as they lasted."""
    spans = [phase.seconds(now) for phase in phases]
    total, left, found = sum(spans) or 1.0, 0.0, []
    for phase, seconds in zip(phases, spans, strict=True):
        width = max(2.0, 1000 * seconds / total)
        found.append(Bar(phase, seconds, left, width))
        left += width
    scale = 1000 / left if left else 1.0
    return [Bar(bar.phase, bar.seconds, round(bar.left * scale, 1), round(bar.width * scale, 1)) for bar in found]


def throughput(tasks: Sequence[Moved], points: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Seconds since the first task began, and bytes a second around each; a task's bytes are spread over the time it took.

    >>> from datetime import timedelta, timezone
    >>> begin = datetime(2024, 1, 1, tzinfo=timezone.utc)
    >>> throughput([Moved(begin, begin + timedelta(seconds=4), 400)], points=2)
    ([1.0, 3.0], [100.0, 100.0])
    """
    if not tasks:
        return [], []
    begin, end = min(task.start for task in tasks), max(task.stop for task in tasks)
    step = max((end - begin).total_seconds(), 0.001) / points
    moved = [0.0] * points
    for task in tasks:
        start, stop = (task.start - begin).total_seconds() / step, (task.stop - begin).total_seconds() / step
        first, last = min(int(start), points - 1), min(int(stop), points - 1)
        took = stop - start
        for place in range(first, last + 1):
            share = (min(stop, place + 1) - max(start, place)) / took if took > 0 and first < last else 1.0
            moved[place] += task.size_bytes * max(0.0, share)
    return [round((place + 0.5) * step, 3) for place in range(points)], [amount / step for amount in moved]
