"""The migrations and the models say the same."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database, default_database_url
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import Base

# A job as the first version wrote it.
OLD_JOB = """
    INSERT INTO jobs (id, spec, source_path, target_path, active_target, request_hash, state, run, claims, resumable, cancel_requested,
                      created_at, phase, tasks_total, tasks_done, bytes_total, bytes_done, fence, last_event, last_log)
    VALUES ('j1', '{"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": "/out"}}',
            '/in', '/out', '/out', 'x', 'queued', 1, 0, FALSE, FALSE, '2024-01-02 03:04:05', '', 0, 0, 0, 0, 0, 1, 1)
"""


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


def test_what_was_submitted_before_a_migration_is_there_after_it_and_after_going_back(database: Database) -> None:
    database.downgrade("0001")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(OLD_JOB)
        connection.exec_driver_sql("INSERT INTO events VALUES ('j1', 1, '2024-01-02 03:04:05', 'submitted', '{}')")
        connection.exec_driver_sql("INSERT INTO logs VALUES ('j1', 1, '2024-01-02 03:04:05', 'info', NULL, 'hello')")
    database.migrate()
    job = Store(database).job("j1")
    assert (job.tenant, job.priority, job.queued_at, job.created_at) == ("default", 0, job.created_at, job.queued_at)
    assert [line.message for line in Store(database).logs("j1")] == ["hello"]
    claim = Claims(database, "executor").claim()
    assert claim is not None
    database.downgrade("0001")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == 2
        assert connection.exec_driver_sql("SELECT count(*) FROM logs").scalar() == 1


def test_sqlite_keeps_watch_over_foreign_keys_again_after_a_migration(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    database.migrate()
    with database.engine.begin() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql("INSERT INTO events VALUES ('nobody', 1, '2024-01-02 03:04:05', 'submitted', '{}')")
    database.close()


def test_sqlite_is_set_up_for_several_processes(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.engine.connect() as connection:
        read = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "foreign_keys", "busy_timeout")}
    database.close()
    assert read == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30000}


def test_the_database_lies_in_the_state_directory_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSVC_HOME", "/var/lib/convsvc")
    assert default_database_url() == "sqlite:////var/lib/convsvc/convsvc.db"
