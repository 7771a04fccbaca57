"""Tenants: users who share roots, quotas and a share of the cluster."""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from convsvc.service.access.audit import add_entry
from convsvc.service.errors import NoSuchTenant, TenantInUse, WrongValue
from convsvc.service.store.changes import now_utc
from convsvc.service.store.database import Database
from convsvc.service.store.models import DEFAULT_TENANT, JobRow, TenantRow, TokenRow, WatchRow
from convsvc.service.store.states import ENDED

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class TenantView:
    """A limit of None is none; `weight` is of its share, against other tenants'; bytes are those its unfinished jobs shall write."""

    name: str
    roots: tuple[str, ...]
    weight: float
    most_running_jobs: int | None
    most_queued_jobs: int | None
    most_active_bytes: int | None
    requests_per_minute: int | None
    created_at: datetime


CHANGEABLE = tuple(field.name for field in fields(TenantView) if field.name not in ("name", "created_at"))
# What the database's columns hold.
MOST = {"most_running_jobs": 2**31 - 1, "most_queued_jobs": 2**31 - 1, "most_active_bytes": 2**63 - 1, "requests_per_minute": 2**31 - 1}


class Tenants:
    """The tenants in the job store. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, name: str, *, actor: str, **values: Any) -> TenantView:
        """Add a tenant; `values` are of CHANGEABLE. Raises TenantInUse if there is one, WrongValue for a value that cannot be."""
        if not _NAME.fullmatch(name):
            raise WrongValue(f"{name!r} is no tenant's name", do="use 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
        with self.database.writing() as session:
            if session.get(TenantRow, name) is not None:
                raise TenantInUse(f"there is a tenant {name}", do=f"change it: convsvc tenant set {name}", details={"tenant": name})
            _check_unused(session, name)
            row = TenantRow(name=name, created_at=now_utc(), **{"roots": [], "weight": 1.0, **checked(values)})
            session.add(row)
            session.flush()
            add_entry(session, actor=actor, tenant=name, action="tenant.create", detail=checked(values))
            return _view(row)

    def set(self, name: str, *, actor: str, **values: Any) -> TenantView:
        """Change what is given, keep the rest. Raises NoSuchTenant, WrongValue."""
        with self.database.writing() as session:
            row = existing_tenant(session, name)
            for field, value in checked(values).items():
                setattr(row, field, value)
            add_entry(session, actor=actor, tenant=name, action="tenant.set", detail=checked(values))
            return _view(row)

    def get(self, name: str) -> TenantView:
        """Raises NoSuchTenant."""
        with self.database.reading() as session:
            return _view(existing_tenant(session, name))

    def list(self) -> list[TenantView]:
        """By name."""
        with self.database.reading() as session:
            return [_view(row) for row in session.scalars(select(TenantRow).order_by(TenantRow.name))]

    def remove(self, name: str, *, actor: str) -> int:
        """Remove a tenant and its tokens, and return how many these were; its jobs stay. Raises NoSuchTenant, TenantInUse."""
        with self.database.writing() as session:
            row = existing_tenant(session, name)
            active = _count(session, select(func.count()).where(JobRow.tenant == name, JobRow.state.not_in(ENDED)))
            if active:
                raise TenantInUse(
                    f"tenant {name} has {active} job{'s' if active > 1 else ''} that have not ended",
                    do="cancel them, or wait for them",
                    details={"tenant": name, "jobs": active},
                )
            tokens = _count(session, select(func.count()).where(TokenRow.tenant == name))
            session.execute(delete(WatchRow).where(WatchRow.tenant == name))  # nobody may look for it any more
            session.delete(row)
            add_entry(session, actor=actor, tenant=name, action="tenant.remove", detail={"tokens": tokens})
            return tokens


def _check_unused(session: Session, name: str) -> None:
    """A removed tenant's jobs stay for a while; whoever gets its name would see them. Raises TenantInUse."""
    left = _count(session, select(func.count()).where(JobRow.tenant == name))
    if left and name != DEFAULT_TENANT:
        raise TenantInUse(
            f"there was a tenant {name} before, of which {left} job{'s are' if left > 1 else ' is'} kept: a new one would see what is its",
            do="choose another name; this one is free again once its jobs are forgotten (convsvc purge)",
            details={"tenant": name, "jobs": left},
        )


def existing_tenant(session: Session, name: str) -> TenantRow:
    """Raises NoSuchTenant."""
    row = session.get(TenantRow, name)
    if row is None:
        raise NoSuchTenant(f"there is no tenant {name}", do=f"make it: convsvc tenant create {name} --root DIR", details={"tenant": name})
    return row


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values as they are kept. Raises WrongValue, with every fault, if one cannot be.

    >>> checked({"roots": ("/shared/a/",), "weight": 2})
    {'roots': ['/shared/a'], 'weight': 2}
    """
    faults = [f"{name}: there is no such field" for name in values if name not in CHANGEABLE]
    faults += [f"roots: {root} is not absolute" for root in values.get("roots", ()) if not os.path.isabs(root)]
    if not 0 < values.get("weight", 1.0) < math.inf:
        faults.append(f"weight: {values['weight']} is not a number above 0")
    for name, most in MOST.items():
        value = values.get(name)
        if value is not None and not 0 <= value <= most:
            faults.append(f"{name}: {value} is not from 0 to {most}")
    if values.get("requests_per_minute") == 0:
        faults.append("requests_per_minute: 0 would shut the tenant out; revoke its tokens instead")
    if faults:
        raise WrongValue("the tenant cannot be so", facts=faults)
    return {**values, "roots": [os.path.normpath(root) for root in values["roots"]]} if "roots" in values else dict(values)


def as_fields(tenant: TenantView) -> dict[str, Any]:
    """The tenant as plain values, for a person or as JSON."""
    return {**asdict(tenant), "roots": list(tenant.roots)}


def _view(row: TenantRow) -> TenantView:
    values = {field.name: getattr(row, field.name) for field in fields(TenantView)}
    return TenantView(**{**values, "roots": tuple(row.roots)})


def _count(session: Session, query: Any) -> int:
    return int(session.scalars(query).one())
