"""A store with many jobs: what the console shows on a busy service."""

from __future__ import annotations

from convsvc.service.access.identity import Caller
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.spec import Job

LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def crowd(database: Database, job: Job, caller: Caller, count: int) -> None:
    """So many queued jobs like this one, as if they had been submitted: through the store it would take a minute."""
    view, _ = Store(database).submit(job, caller=caller)
    with database.writing() as session:
        row = session.get(JobRow, view.id)
        assert row is not None
        like = {column.key: getattr(row, column.key) for column in JobRow.__table__.columns}
        ids = (view.id[:20] + "".join(LETTERS[n >> shift & 31] for shift in (25, 20, 15, 10, 5, 0)) for n in range(count))
        rows = [{"id": one_id, "active_target": None, "name": f"{job.name} {n}"} for n, one_id in enumerate(ids) if one_id != view.id]
        session.execute(JobRow.__table__.insert(), [like | row for row in rows])
