"""The audit: who did what, when, from where, and what came of it. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from convsvc.errors import ConvsvcError
from convsvc.service.access.identity import Caller
from convsvc.service.store.changes import now_utc
from convsvc.service.store.database import Database
from convsvc.service.store.models import AuditRow
from convsvc.service.store.retrying import retried
from convsvc.service.views import AuditPage, AuditView

NOBODY = "nobody"  # the actor, and the tenant, of a request whose token is not known


@dataclass(slots=True)
class Act:
    """Something a caller is about to do; `outcome` and `job_id` are filled in as they become known."""

    caller: Caller
    action: str
    address: str | None
    job_id: str | None = None
    outcome: str = "ok"
    detail: dict[str, Any] | None = None


class Audit:
    """Adding rows, and reading them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def of(self, act: Act) -> Iterator[Act]:
        """Write down what is done in this `with`: as it ended, or with the slug of the error that it raised.

        The row is written right after, not in the transaction of the deed. Where it cannot be written the request fails.
        """
        try:
            yield act
        except ConvsvcError as error:
            act.outcome = error.slug
            self._write(act)
            raise
        self._write(act)

    @retried
    def refused(self, actor: str, tenant: str, address: str | None, outcome: str, detail: dict[str, Any]) -> None:
        """Write down that somebody was not let in."""
        with self.database.writing() as session:
            add_entry(session, actor=actor, tenant=tenant, action="authenticate", address=address, outcome=outcome, detail=detail)

    @retried
    def page(self, *, limit: int, cursor: int | None, tenant: str | None, action: str | None, job_id: str | None) -> AuditPage:
        """Rows, newest first; `cursor` is the last page's `next_cursor`."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit + 1)
        wanted = {AuditRow.tenant: tenant, AuditRow.action: action, AuditRow.job_id: job_id}
        query = query.where(*(column == value for column, value in wanted.items() if value is not None))
        if cursor is not None:
            query = query.where(AuditRow.id < cursor)
        with self.database.reading() as session:
            rows = [_view(row) for row in session.scalars(query)]
        return AuditPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)

    @retried
    def _write(self, act: Act) -> None:
        with self.database.writing() as session:
            add_entry(
                session,
                actor=act.caller.name,
                tenant=act.caller.tenant,
                action=act.action,
                address=act.address,
                job_id=act.job_id,
                outcome=act.outcome,
                detail=act.detail,
            )


def add_entry(
    session: Session,
    *,
    actor: str,
    tenant: str,
    action: str,
    address: str | None = None,
    job_id: str | None = None,
    outcome: str = "ok",
    detail: dict[str, Any] | None = None,
) -> None:
    """Add a row in the caller's transaction. Nothing in `detail` may be a secret."""
    row = AuditRow(at=now_utc(), actor=actor[:200], tenant=tenant, action=action, outcome=outcome, detail=detail)
    row.address, row.job_id = address and address[:64], job_id
    session.add(row)


def _view(row: AuditRow) -> AuditView:
    return AuditView(row.id, row.at, row.actor, row.tenant, row.action, row.job_id, row.address, row.outcome, row.detail)
