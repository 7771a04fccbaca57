"""Following a stream of server-sent events over broken connections: what is new, where to go on, when it is over. Pure.

The service ends a stream when the job has ended and all was sent. A connection may end in the same way, so that nothing is believed
until the job itself is found ended, and a stream opened after that brought nothing more (or the job's last event was seen).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from convsvc.client.answers import UNREADABLE, Json, as_is, event_view, log_line, not_ours
from convsvc.client.requests import PATIENCE_S, Request, job_path, stated
from convsvc.service.views import TOLD, EventView, JobView, LogLine

Item = TypeVar("Item", EventView, LogLine)

ENDED = frozenset({"succeeded", "failed", "canceled"})
SILENCE_S = 60.0  # the service pings every 15 s; a stream silent for longer is dead and is opened again
REOPEN_S = 0.5  # before a stream that brought nothing is opened again


@dataclass(slots=True)
class Follow(Generic[Item]):
    """A stream of a job's items, each with a `seq` that grows. `after` is the last one seen."""

    job_id: str
    path: str
    read: Callable[[Json], Item]
    after: int = 0
    params: Json = field(default_factory=dict)
    over: bool = False
    opened: bool = False
    pause_s: float = 0.0
    _news: bool = False
    _last: Item | None = None
    _ended_before: bool = False
    _data: list[str] = field(default_factory=list)

    def request(self) -> Request[None]:
        """Opens the stream where it was left. The first one fails like any request, the following ones are patient."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.after)}
        patience_s, self.opened = PATIENCE_S if self.opened else None, True
        self._data, self._news = [], False
        return Request("GET", self.path, as_is, params=self.params, headers=headers, timeout_s=SILENCE_S, patience_s=patience_s)

    def line(self, line: str) -> Item | None:
        """The item that a line of the stream completes, if it is a new one.

        An event counts once its empty line has come: one that was cut off comes again with the next stream.
        Raises ServiceError for what no convsvc has sent.
        """
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        if line or not self._data:
            return None
        text, self._data = "\n".join(self._data), []
        try:
            item = self.read(json.loads(text))
        except UNREADABLE:
            raise not_ours(self.path) from None
        if isinstance(item, EventView) and item.kind in TOLD:
            return item
        if item.seq <= self.after:
            return None
        self.after, self._last, self._news = item.seq, item, True
        return item

    def closed(self, job: JobView, *, cleanly: bool) -> None:
        """The stream has ended, `cleanly` or not; `job` is as it stood after that."""
        ended = job.state in ENDED
        nothing_more = cleanly and not self._news and self._ended_before
        self.over = ended and (nothing_more or self._is_last_of(job))
        self._ended_before = ended
        self.pause_s = 0.0 if self._news or ended else REOPEN_S

    def _is_last_of(self, job: JobView) -> bool:
        last = self._last
        if not isinstance(last, EventView) or last.kind != "state":
            return False
        return last.data.get("state") in ENDED and last.data.get("run") == job.run


def events(job_id: str, after: int, *, live: bool = False) -> Follow[EventView]:
    return Follow(job_id, job_path(job_id, "events"), event_view, after, {"live": "true"} if live else {})


def log_stream(job_id: str, *, after: int, task: int | None, level: str | None) -> Follow[LogLine]:
    return Follow(job_id, job_path(job_id, "logs"), log_line, after, stated(task=task, level=level))
