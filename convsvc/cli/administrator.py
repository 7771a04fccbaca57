"""What the administrator's commands share: they work on the job store itself, without a service."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convsvc.service.store.database import Database


@contextmanager
def job_store(url: str | None) -> Iterator[Database]:
    """The job store's database, its tables brought up to date. Raises StoreAway."""
    from convsvc.service.store.database import Database, default_database_url
    from convsvc.service.store.retrying import retried

    database = Database(url or default_database_url())
    try:
        retried(database.migrate)()
        yield database
    finally:
        database.close()


def operator() -> str:
    """Who the audit says has done it: this process's user, on this machine's command line."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


def day(at: datetime | None) -> str:
    """A time for a table."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
