"""Rows of the job store as they are shown. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from convsvc.service.store.models import AttemptRow, JobRow, TaskRow
from convsvc.service.store.pace import eta_of
from convsvc.service.store.states import ENDED
from convsvc.service.views import AttemptView, JobView, Progress, TaskView, Waiting


def job_view(row: JobRow, waiting: Waiting | None = None) -> JobView:
    """The job as it is shown."""
    return JobView(
        id=row.id,
        name=row.name,
        mode=row.spec.get("mode", "convert"),
        model_type=row.model_type,
        state=row.state,
        run=row.run,
        source=row.source_path,
        target=row.target_path,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        progress=progress_of(row),
        executor=row.executor,
        plan=row.plan,
        result=row.result,
        error=row.error,
        spec=shown_spec(row.spec),
        tenant=row.tenant,
        priority=row.priority,
        submitted_by=row.submitted_by,
        queued_at=row.queued_at,
        notes=_notes_of(row.result) or _notes_of(row.plan),
        report=(row.result or {}).get("report"),
        labels=row.labels or {},
        waiting=waiting,
        staged=row.resumable and row.state in {"queued", "failed"},
        batch=row.batch_id,
    )


def shown_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The job as it was sent, but for what of a webhook's URL may be a secret, to be read by all of the tenant: its path and query,
    and a name and password before the host.

    >>> shown_spec({"webhook": {"url": "https://hooks.example:8443/T0/secret?key=1"}})
    {'webhook': {'url': 'https://hooks.example:8443/...'}}
    """
    webhook = spec.get("webhook")
    if not isinstance(webhook, dict) or not isinstance(webhook.get("url"), str):
        return spec
    found = re.match(r"https?://[^/?#\s]*", webhook["url"])
    start = re.sub(r"//.*@", "//", found[0]) if found else ""
    return {**spec, "webhook": {**webhook, "url": start if webhook["url"] in (start, start + "/") else f"{start}/..."}}


def progress_of(row: JobRow) -> Progress:
    """How far the job is, with what its executor measured last."""
    counts = (row.phase, row.tasks_done, row.tasks_total, row.bytes_done, row.bytes_total)
    pace = row.pace
    if not pace or pace["phase"] != row.phase or row.state in ENDED:
        return Progress(*counts)
    eta_s, basis = eta_of(pace, str((row.spec.get("options") or {}).get("verify", "")))
    return Progress(
        *counts,
        bytes_running=min(pace["running"], row.bytes_total - row.bytes_done) if row.phase == "write" else 0,
        phase_tasks_done=pace["tasks"],
        phase_tasks_total=pace["tasks_total"],
        phase_bytes_done=pace["bytes"] + pace["running"],
        phase_bytes_total=pace["bytes_total"],
        phase_began_at=datetime.fromisoformat(pace["began_at"]),
        told_at=datetime.fromisoformat(pace["at"]),
        rate_bytes_s=pace["rate"],
        eta_s=eta_s,
        eta_basis=basis,
    )


def _notes_of(said: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The notes in a plan's summary or a run's result; an older version's, that are no notes with a kind, stay where they are."""
    return [note for note in (said or {}).get("notes", ()) if isinstance(note, dict)]


def task_view(row: TaskRow) -> TaskView:
    """The task as it is shown."""
    return TaskView(
        row.number, row.name, row.state, row.attempt, row.bytes, row.seconds, row.worker, row.error, row.started_at, row.ended_at
    )


def attempt_view(row: AttemptRow) -> AttemptView:
    """The attempt as it is shown."""
    return AttemptView(row.run, row.task, row.attempt, row.worker, row.started_at, row.ended_at, row.outcome, row.error)
