"""The migrations and the models say the same."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from convsvc.service.database import Database, default_database_url
from convsvc.service.models import Base


def test_all_migrations_together_equal_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_tables_are_at_the_head_and_migrating_again_changes_nothing(database: Database) -> None:
    assert database.revision() == database.head() is not None
    database.migrate()
    assert database.revision() == database.head()


def test_migrations_go_down_to_nothing_and_up_again(database: Database) -> None:
    database.downgrade("base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    database.migrate()
    assert set(inspect(database.engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_sqlite_is_set_up_for_several_processes(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.engine.connect() as connection:
        read = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "foreign_keys", "busy_timeout")}
    database.close()
    assert read == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30000}


def test_the_database_lies_in_the_state_directory_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSVC_HOME", "/var/lib/convsvc")
    assert default_database_url() == "sqlite:////var/lib/convsvc/convsvc.db"
