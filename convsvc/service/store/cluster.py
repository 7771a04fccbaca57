"""Who works: executors as their heartbeats tell of them, and the machines of their engines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from convsvc.service.cluster_views import ExecutorView, NodeView
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.models import ExecutorRow, JobRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import LEASED

GONE = frozenset({"silent", "left"})


class Cluster:
    """Looks at who works. An executor that was not heard of for `silence_s` is silent. `tenant` is whose jobs are named; None: all."""

    def __init__(self, database: Database, silence_s: float) -> None:
        self.database, self.silence_s = database, silence_s

    @retried
    def executors(self, *, gone: bool = False, tenant: str | None = None) -> list[ExecutorView]:
        """Those that are there, by name; with `gone` also those that ended, or went silent, within a day."""
        with self.database.reading() as session:
            jobs = _jobs_by_executor(session)
            rows = session.scalars(select(ExecutorRow).order_by(ExecutorRow.name))
            since = now_of(session) - timedelta(seconds=self.silence_s)
            found = [_view(row, since, jobs[row.name], tenant) for row in rows]
        return [one for one in found if gone or one.state not in GONE]

    def nodes(self, *, tenant: str | None = None) -> list[NodeView]:
        """The machines that living executors' engines have, by host. An engine that was not opened yet has none."""
        found: dict[tuple[str, str], NodeView] = {}
        for one in self.executors(tenant=tenant):
            for node in one.nodes:
                key = (one.engine, str(node["id"]))
                # Executors of one cluster share its machines; those with an engine of their own on one machine do not.
                known = found.get(key) or NodeView(key[1], str(node["host"]), one.engine, 0)
                slots = int(node["slots"]) if one.engine == "ray" else known.slots + int(node["slots"])
                versions = sorted({*known.versions, *([one.version] if one.version else [])})
                executors, jobs = [*known.executors, one.name], [*known.jobs, *one.jobs]
                found[key] = replace(known, slots=slots, versions=versions, executors=executors, jobs=jobs)
        return sorted(found.values(), key=lambda node: (node.host, node.id))


def _jobs_by_executor(session: Session) -> dict[str, list[tuple[str, str]]]:
    query = select(JobRow.executor, JobRow.id, JobRow.tenant).where(JobRow.state.in_(sorted(LEASED)), JobRow.executor.is_not(None))
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for executor, job, tenant in session.execute(query.order_by(JobRow.id)):
        found[str(executor)].append((job, tenant))
    return found


def _view(row: ExecutorRow, since: datetime, jobs: list[tuple[str, str]], tenant: str | None) -> ExecutorView:
    about: dict[str, Any] = row.about or {}
    mine = [job for job, owner in jobs if tenant in {None, owner}]
    away_since = about.get("away_since")
    return ExecutorView(
        name=row.name,
        state=_state(row, since, bool(jobs)),
        engine=row.engine,
        host=str(about.get("host") or row.name.rpartition(":")[0] or row.name),
        version=about.get("version"),
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        left_at=row.left_at,
        jobs_at_once=int(about.get("jobs_at_once") or 1),
        slots=about.get("slots"),
        nodes=list(about.get("nodes") or ()),
        jobs=mine,
        other_jobs=len(jobs) - len(mine),
        away=about.get("away"),
        away_since=datetime.fromisoformat(away_since) if away_since else None,
    )


def _state(row: ExecutorRow, since: datetime, busy: bool) -> str:
    if row.left_at is not None:
        return "left"
    if row.heartbeat_at < since:
        return "silent"
    if (row.about or {}).get("away"):
        return "away"
    return "busy" if busy else "idle"
