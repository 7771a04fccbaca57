"""How connections to the job store are set up: SQLite for one machine, PostgreSQL for several.

A PostgreSQL server that does not answer, or a transaction of somebody else that does not end, becomes an error within half a
minute; nothing here waits for ever.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from convsvc.service.errors import WrongValue

URLS = "give a URL like sqlite:////var/lib/convsvc/convsvc.db or postgresql://user@host/name"
BUSY_S = 30  # how long a writer waits for its turn
POOL_SIZE, POOL_EXTRA = 10, 20  # FastAPI runs 40 requests at once at most; those without a connection wait for one
POSTGRES = {
    "application_name": "convsvc",
    "connect_timeout": 10,
    # A server that was cut off is noticed after about half a minute, not after the two hours of TCP.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
POSTGRES_SETTINGS = {
    "timezone": "UTC",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",  # a process that was stopped in a transaction may not keep its locks
}


def database_url(text: str) -> URL:
    """The URL as SQLAlchemy takes it: PostgreSQL is spoken to with psycopg 3, however its URL begins.

    >>> str(database_url("postgres://convsvc@db/jobs"))
    'postgresql+psycopg://convsvc@db/jobs'
    """
    # SQLAlchemy 2.1 has psycopg 3 as its default, 2.0 psycopg2; "postgres" is what Heroku and many tools write.
    url = make_url(text)
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgres", "postgresql"} else url


def open_engine(text: str) -> Engine:
    """A pool of connections to the database at the URL `text`; none is made yet. Raises WrongValue for one of another kind."""
    try:
        url = database_url(text)
    except ArgumentError:
        raise WrongValue("the job store's address is no database URL", do=URLS) from None
    if url.get_backend_name() not in {"postgresql", "sqlite"}:
        raise WrongValue(f"a job store is not kept in {url.get_backend_name()}", do=URLS)
    return _open_postgres(url) if url.get_backend_name() == "postgresql" else _open_sqlite(url)


def _open_postgres(url: URL) -> Engine:
    settings = " ".join(f"-c {name}={value}" for name, value in POSTGRES_SETTINGS.items())
    stated = str(url.query.get("options", ""))  # after ours, so that the user's win
    arguments = {name: value for name, value in POSTGRES.items() if name not in url.query}
    return create_engine(
        url.difference_update_query(["options"]),
        connect_args={**arguments, "options": f"{settings} {stated}".strip()},
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=POOL_EXTRA,
        pool_timeout=BUSY_S,
        pool_recycle=1800,
        pool_use_lifo=True,
    )


def _open_sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_S})
    path = url.database
    if path and path != ":memory:":
        # The file tells of every tenant's jobs: other users of this machine neither pass the directory nor open the file.
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        event.listen(engine, "do_connect", lambda *_: _make_private(path))
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(path: str) -> None:
    """The database's file is its owner's alone, wherever it lies; SQLite gives the files beside it the same mode.

    A file that is there is not opened: closing it would drop the locks that other connections of this process have on it
    (https://www.sqlite.org/howtocorrupt.html, "POSIX advisory locks canceled").
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        there = os.stat(path)
        if stat.S_IMODE(there.st_mode) & 0o077 and there.st_uid == os.geteuid():
            os.chmod(path, 0o600)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, too late; see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_S * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # In WAL mode a transaction that reads and then writes fails at once if another wrote in between; IMMEDIATE waits its turn.
    write = connection.get_execution_options().get("convsvc_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
