"""Opening the job store's database: where it is, how SQLite is set up, migrations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

MIGRATIONS = Path(__file__).parent / "migrations"


def default_database_url() -> str:
    """SQLite in `$CONVSVC_HOME`, or in ~/.local/state/convsvc."""
    home = os.environ.get("CONVSVC_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state", "convsvc")
    return f"sqlite:///{os.path.abspath(home)}/convsvc.db"


class Database:
    """A pool of connections. `reading()` and `writing()` are one transaction each; `writing` commits at its end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _open_engine(url)
        self._write_engine = self.engine.execution_options(convsvc_write=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with Session(self._write_engine, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to `revision`, forwards; safe to call at every start."""
        with self._write_engine.connect() as connection:
            config = _alembic_config(connection)
            command.upgrade(config, revision)
            connection.commit()

    def downgrade(self, revision: str) -> None:
        """Bring the tables back to `revision`; "base" removes them."""
        with self._write_engine.connect() as connection:
            command.downgrade(_alembic_config(connection), revision)
            connection.commit()

    def revision(self) -> str | None:
        """The migration that the tables are at."""
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def head(self) -> str | None:
        """The migration that this version of the program needs."""
        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    def close(self) -> None:
        self.engine.dispose()


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _open_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": 30})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, too late; see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # In WAL mode a transaction that reads and then writes fails at once if another wrote in between; IMMEDIATE waits its turn.
    write = connection.get_execution_options().get("convsvc_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
