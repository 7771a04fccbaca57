"""The job store's database: where it is, its transactions, its migrations. How connections are set up: `engines.py`."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from convsvc.service.errors import StoreTooNew
from convsvc.service.store.engines import BUSY_S, open_engine

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATING = 0x636F6E76  # "conv": the advisory lock under which PostgreSQL's tables are migrated


def default_database_url() -> str:
    """SQLite in `default_home`."""
    return f"sqlite:///{default_home()}/convsvc.db"


def default_home() -> Path:
    """`$CONVSVC_HOME`, or ~/.local/state/convsvc."""
    home = os.environ.get("CONVSVC_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state", "convsvc")
    return Path(os.path.abspath(home))


class Database:
    """A pool of connections. `reading()` and `writing()` are one transaction each; `writing` commits at its end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = open_engine(url)
        self.is_postgres = self.engine.dialect.name == "postgresql"
        self._write_engine = self.engine.execution_options(convsvc_write=True)
        self._turn: AbstractContextManager[None] = nullcontext() if self.is_postgres else _Turn()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with self._turn, Session(self._write_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to `revision`, forwards; safe to call at every start, also of several processes at once.

        Tables of a later version are left as they are: while an installation is upgraded both versions work on them (`works_on`).
        Raises StoreTooNew where this version does not.
        """
        with self._migrating() as config:
            there = MigrationContext.configure(config.attributes["connection"]).get_current_revision()
            if there is None or there in self._known():
                command.upgrade(config, revision)
            elif not self.works_on(there):
                raise StoreTooNew(
                    f"the job store's tables are at {there}, this version of convsvc knows {self.head()}",
                    do="start a version of convsvc as new as the tables, or restore the backup from before the upgrade",
                    details={"tables": there, "known": self.head()},
                )

    def downgrade(self, revision: str) -> None:
        """Bring the tables back to `revision`; "base" removes them."""
        with self._migrating() as config:
            command.downgrade(config, revision)

    @contextmanager
    def _migrating(self) -> Iterator[Config]:
        # One transaction: who comes second waits for it, and finds the work done.
        with self._write_engine.connect() as connection:
            if self.is_postgres:
                _wait_for_migrations(connection)
                yield _alembic_config(connection)
                connection.commit()
            else:
                with _without_foreign_keys(connection):
                    yield _alembic_config(connection)
                    connection.commit()

    def revision(self) -> str | None:
        """The migration that the tables are at."""
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def head(self) -> str | None:
        """The migration that this version of the program needs."""
        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    def works_on(self, revision: str | None) -> bool:
        """Whether this version works with tables at a migration: its own, or a later one of the same generation.

        Within a generation, the first of a migration's four digits, migrations only add what an older version needs not know.
        """
        head = self.head() or ""
        is_like = revision is not None and len(revision) == len(head) and revision.isdigit() and revision[:1] == head[:1]
        return is_like and str(revision) >= head

    def _known(self) -> set[str]:
        return {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}

    def close(self) -> None:
        self.engine.dispose()


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


class _Turn:
    """Lets one thread at a time write. SQLite would have them try again and again instead, and the unlucky one fails in the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=BUSY_S):
            raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError(f"database is locked for {BUSY_S} s by this process"))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _wait_for_migrations(connection: Connection) -> None:
    # A migration of large tables takes as long as it takes; the pool's timeouts are for requests.
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")


@contextmanager
def _without_foreign_keys(connection: Connection) -> Iterator[None]:
    # SQLite alters a table by copying it and dropping the first one. With foreign keys on, dropping `jobs` would delete what belongs to
    # the jobs: their tasks, events and logs. The pragma does nothing within a transaction, so it goes around the one that alters.
    raw = connection.connection.driver_connection
    assert raw is not None
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        connection.rollback()
        raw.execute("PRAGMA foreign_keys=ON")
