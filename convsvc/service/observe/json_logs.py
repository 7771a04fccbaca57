"""How the service's processes log: one line a record on stderr, as text or as JSON, with the ids of what the line is about.

The ids (job, task, attempt, tenant, request_id, worker) come from structlog's context variables, which a request and a claimed job
bind, so that a library's line, too, says for whom it was written. Code logs through Python's `logging`, and may pass ids as `extra`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import datetime, timezone
from typing import Any, Literal, TextIO

import structlog

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")
VARIABLE = "CONVSVC_LOG_FORMAT"
IDS = ("job", "task", "attempt", "tenant", "request_id", "worker")
# They tell each request, with its URL: a webhook's may hold a secret.
_TOO_TALKATIVE = ("httpx", "httpcore", "alembic", "sse_starlette", "opentelemetry", "ray")

Event = MutableMapping[str, Any]


def set_up_logs(form: Format | None = None, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Let everything that this process logs go to `stream` (stderr) in one form; None: as $CONVSVC_LOG_FORMAT says, text without it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(form or format_from_environment()))
    handler.addFilter(lambda record: not getattr(record, "said", False))  # the job's own log shows what its workers say
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def format_from_environment() -> Format:
    """What $CONVSVC_LOG_FORMAT asks for; text where it says nothing that is known."""
    return "json" if os.environ.get(VARIABLE, "").strip().lower() == "json" else "text"


def formatter(form: Format) -> logging.Formatter:
    """Formats records of `logging`, whoever wrote them."""
    shared: list[Any] = [structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder(IDS), _add_origin]
    render: list[Any] = [structlog.processors.JSONRenderer(default=str)] if form == "json" else [_as_text]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.processors.format_exc_info, _in_order, *render],
    )


def _add_origin(_logger: Any, _method: str, event: Event) -> Event:
    record: logging.LogRecord = event["_record"]
    at = datetime.fromtimestamp(record.created, timezone.utc)
    event["time"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event["level"], event["logger"] = record.levelname.lower(), record.name
    return event


def _in_order(_logger: Any, _method: str, event: Event) -> Event:
    """What every line has, then the ids that are known, then the traceback."""
    ordered = {"time": event["time"], "level": event["level"], "logger": event["logger"], "message": event["event"]}
    ordered |= {name: event[name] for name in IDS if event.get(name) not in {None, ""}}
    return ordered | ({"exception": event["exception"]} if event.get("exception") else {})


def _as_text(_logger: Any, _method: str, event: Event) -> str:
    """As a person reads it. Lines after the first are indented: what a user wrote cannot look like a line of ours."""
    ids = "".join(f" {name}={event[name]}" for name in IDS if name in event)
    text = "\n".join([str(event["message"]) + ids, *([event["exception"]] if "exception" in event else [])])
    return f"{event['time']} {event['level']:<7} {event['logger']}: " + "\n  ".join(text.splitlines() or [""])
