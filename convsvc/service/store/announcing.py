"""That a job has ended, for its webhook: the row from which `webhooks/calling.py` calls it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from convsvc.service.store.clock import now_of
from convsvc.service.store.models import DeliveryRow, JobRow
from convsvc.service.store.shown import job_view
from convsvc.service.views import JobView

WAITING, DELIVERED, FAILED = "waiting", "delivered", "failed"


def announce_end(session: Session, row: JobRow) -> None:
    """In the transaction in which the job ends, and if its author wants to know: one row a run."""
    url = (row.spec.get("webhook") or {}).get("url")
    if url:
        now = now_of(session)
        session.add(
            DeliveryRow(job_id=row.id, run=row.run, url=url, body=body_of(row), state=WAITING, attempts=0, next_at=now, created_at=now)
        )


def body_of(row: JobRow) -> dict[str, Any]:
    """What the webhook is told: which event this is, and the job as `GET /jobs/{id}` shows it at this moment."""
    return {"event": f"job.{row.state}", "job": TypeAdapter(JobView).dump_python(job_view(row), mode="json")}
