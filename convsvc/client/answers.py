"""The service's JSON as views, its problems as the errors they were made from. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import convsvc.service.errors  # noqa: F401  (its kinds are made again from problems)
from convsvc.errors import ConvsvcError, ServiceError, error_from_dict
from convsvc.service.views import AttemptView, EventView, JobPage, JobView, LogLine, Progress, TaskView, Waiting

if TYPE_CHECKING:
    from convsvc.service.batch_views import BatchPage, BatchView
    from convsvc.service.cluster_views import ExecutorView, NodeView, WhoAmI
    from convsvc.service.plan_views import PlanView
    from convsvc.service.watch_views import IterationView, WatchView

View = TypeVar("View")
Json = dict[str, Any]

# What comes of reading an answer that is not as ours are.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


def view_of(kind: Callable[..., View], data: Mapping[str, Any]) -> View:
    """The view, from JSON. Fields that this version does not know are left out: the service may be newer."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass, which typing cannot ask for
    return kind(
        **{
            name: _time(value) if name in {"at", "since"} or name.endswith(("_at", "_since")) else value
            for name, value in data.items()
            if name in known
        }
    )


def job_view(data: Json) -> JobView:
    waiting = waiting_view(data["waiting"]) if data.get("waiting") else None
    return view_of(JobView, {**data, "progress": progress_of(data.get("progress") or {}), "waiting": waiting})


def progress_of(data: Json) -> Progress:
    return view_of(Progress, data)


def waiting_view(data: Json) -> Waiting:
    return view_of(Waiting, data)


def executor_views(data: list[Json]) -> list[ExecutorView]:
    from convsvc.service.cluster_views import ExecutorView

    return [view_of(ExecutorView, item) for item in data]


def who_view(data: Json) -> WhoAmI:
    from convsvc.service.cluster_views import WhoAmI

    return view_of(WhoAmI, data)


def node_views(data: list[Json]) -> list[NodeView]:
    from convsvc.service.cluster_views import NodeView

    return [view_of(NodeView, item) for item in data]


def batch_view(data: Json) -> BatchView:
    from convsvc.service.batch_views import BatchJob, BatchView

    jobs = None if data.get("jobs") is None else [view_of(BatchJob, item) for item in data["jobs"]]
    return view_of(BatchView, {**data, "jobs": jobs})


def batch_page(data: Json) -> BatchPage:
    from convsvc.service.batch_views import BatchPage

    return BatchPage([batch_view(item) for item in data["batches"]], data["next_cursor"])


def watch_view(data: Json) -> WatchView:
    from convsvc.service.watch_views import WatchView

    return view_of(WatchView, data)


def watch_views(data: list[Json]) -> list[WatchView]:
    return [watch_view(item) for item in data]


def iteration_views(data: list[Json]) -> list[IterationView]:
    from convsvc.service.watch_views import IterationView

    return [view_of(IterationView, item) for item in data]


def job_page(data: Json) -> JobPage:
    return JobPage([job_view(item) for item in data["jobs"]], data["next_cursor"])


def task_views(data: list[Json]) -> list[TaskView]:
    return [view_of(TaskView, item) for item in data]


def attempt_views(data: list[Json]) -> list[AttemptView]:
    return [view_of(AttemptView, item) for item in data]


def log_lines(data: list[Json]) -> list[LogLine]:
    return [log_line(item) for item in data]


def log_line(data: Json) -> LogLine:
    return view_of(LogLine, data)


def event_view(data: Json) -> EventView:
    return view_of(EventView, data)


def plan_view(data: Json) -> PlanView:
    from convsvc.service.plan_views import PlanFiles, PlanNeeds, PlanNote, PlanProblem, PlanTarget, PlanView

    parts = {"source": view_of(PlanFiles, data["source"]), "target": view_of(PlanTarget, data["target"])}
    notes = [view_of(PlanNote, note) for note in data["notes"]]
    problems = [view_of(PlanProblem, problem) for problem in data.get("problems", ())]
    return view_of(PlanView, {**data, **parts, "needs": view_of(PlanNeeds, data["needs"]), "notes": notes, "problems": problems})


def as_is(data: Any) -> Any:
    return data


def not_ours(url: str) -> ServiceError:
    """What an answer of something else than convsvc is raised as."""
    return ServiceError(f"{url} answered, but not as convsvc does", do="give the service's address with --url or $CONVSVC_URL")


def error_of(url: str, status: int, body: bytes) -> ConvsvcError:
    """The error of an answer that is not a success: the one its problem document was made from, else what the answer says."""
    document = problem_in(body)
    if document is None:
        text = body.decode(errors="replace").strip()
        return ServiceError(f"{url} answered {status}", facts=[" ".join(text[:200].split())] if text else [], details={"status": status})
    kind = document.get("kind", "ServiceError")
    error = error_from_dict({**document, "type": kind, "message": document["detail"]})
    # A kind that this version does not know is still the service's error.
    return error if type(error).__name__ == kind else error_from_dict({**error.as_dict(), "type": "ServiceError"})


def problem_in(body: bytes) -> Json | None:
    """The problem document that a body is; None for anything else, such as a proxy's page."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) and "detail" in document else None


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))
