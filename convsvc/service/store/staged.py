"""Jobs that have not ended well and may have bytes staged beside their targets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from convsvc.execute.staging.sites import staging_path
from convsvc.service.store.database import Database
from convsvc.service.store.models import JobRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.states import ENDED

BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are


@dataclass(frozen=True, slots=True)
class Staged:
    """A job's staging directory. `size_bytes` is what it takes on its file system, None where this machine does not see it."""

    job: str
    state: str
    tenant: str
    submitted_by: str | None
    target: str
    staging: str
    size_bytes: int | None
    ended_at: datetime | None


def list_staged(database: Database, tenant: str | None = None) -> list[Staged]:
    """Every job that has begun to write and has not ended in order, oldest first; one tenant's, or all. Looks at this machine's files."""
    return [_looked_at(row) for row in _rows(database, tenant)]


@retried
def _rows(database: Database, tenant: str | None) -> list[JobRow]:
    query = select(JobRow).where(JobRow.resumable, JobRow.state.not_in(sorted(ENDED - {"failed"}))).order_by(JobRow.id)
    if tenant is not None:
        query = query.where(JobRow.tenant == tenant)
    with database.reading() as session:
        rows = list(session.scalars(query))
        session.expunge_all()
        return rows


def _looked_at(row: JobRow) -> Staged:
    target = Path(os.path.realpath(row.target_path))
    try:
        staging = staging_path(target)
    except OSError:
        staging = target.with_name(f".{target.name}.convsvc")
    return Staged(row.id, row.state, row.tenant, row.submitted_by, row.target_path, str(staging), size_of(staging), row.ended_at)


def size_of(folder: Path) -> int | None:
    """What a directory takes, with all in it; files are sparse until they are written. None where it is not there, or not readable."""
    try:
        total = os.lstat(folder).st_blocks * BLOCK_BYTES
        for entry in os.scandir(folder):
            inside = size_of(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else None
            total += inside if inside is not None else entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
    except OSError:
        return None
    return total
