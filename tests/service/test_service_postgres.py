"""What is particular to PostgreSQL: its URLs, its timeouts, its locks, and connections that it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from tenacity import wait_none

from convsvc.service.errors import NoSuchJob, StoreAway
from convsvc.service.store import retrying
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.engines import database_url as as_sqlalchemy
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import Base, JobRow
from convsvc.service.store.retrying import retried
from convsvc.spec import parse_job
from tests.service.postgres_server import Postgres

MIGRATE = (
    "import sys; from convsvc.service.store.database import Database; print('ready', flush=True); input(); Database(sys.argv[1]).migrate()"
)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture
def submit(store: Store, a_job: Callable[..., Any]) -> Callable[[str], str]:
    return lambda target: store.submit(parse_job(a_job(target)))[0].id


@pytest.fixture
def fresh_url(postgres: Postgres) -> Iterator[str]:
    """A database without tables."""
    url = postgres.new()
    yield url
    postgres.drop(url)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying._retrying, "wait", wait_none())


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_whatever_the_url_begins_with_it_is_psycopg_that_speaks(scheme: str, postgres_url: str) -> None:
    database = Database(postgres_url.replace("postgresql", scheme, 1))
    with database.engine.connect() as connection:
        assert (connection.dialect.driver, connection.exec_driver_sql("SELECT 1").scalar()) == ("psycopg", 1)
    database.close()


def test_another_driver_is_left_as_it_was_asked_for() -> None:
    assert as_sqlalchemy("postgresql+asyncpg://db/jobs").drivername == "postgresql+asyncpg"


def test_nothing_waits_for_ever_and_the_server_knows_who_is_connected(database: Database) -> None:
    names = ("application_name", "timezone", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    with database.engine.connect() as connection:
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
    assert found == ["convsvc", "UTC", "30s", "10s", "1min"]


def test_what_the_url_says_of_the_connection_wins(postgres_url: str) -> None:
    database = Database(f"{postgres_url}&application_name=mine&options=-c%20lock_timeout%3D3s")
    with database.engine.connect() as connection:
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("application_name", "lock_timeout", "statement_timeout")]
    assert found == ["mine", "3s", "30s"]
    database.close()


def test_two_replicas_that_start_at_once_migrate_one_after_the_other(fresh_url: str) -> None:
    command = [sys.executable, "-c", MIGRATE, fresh_url]
    replicas = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "12"]
    for replica in replicas:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    said = [replica.communicate(timeout=120)[1] for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0], said
    database = Database(fresh_url)
    assert database.revision() == database.head()
    database.close()


def test_threads_that_migrate_at_once_wait_for_each_other(fresh_url: str) -> None:
    databases = [Database(fresh_url) for _ in range(4)]
    failures: list[BaseException] = []
    ready = threading.Barrier(4)

    def migrate(database: Database) -> None:
        ready.wait(30)
        try:
            database.migrate()
        except BaseException as error:  # told to the test, which is in another thread
            failures.append(error)

    at_once([lambda database=database: migrate(database) for database in databases])
    assert failures == []
    with databases[0].engine.connect() as connection:
        found = {row[0] for row in connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))}
    assert found == {*Base.metadata.tables, "alembic_version"}
    for database in databases:
        database.close()


def test_a_job_that_somebody_has_locked_is_passed_over_not_waited_for(
    database: Database, claims: Claims, submit: Callable[[str], str]
) -> None:
    first, second = submit("/shared/1"), submit("/shared/2")
    with database.writing() as session:
        session.execute(select(JobRow).where(JobRow.id == first).with_for_update())
        claim = claims.claim()
        assert claim is not None
        assert claim.job_id == second
        assert claims.claim() is None
    last = claims.claim()
    assert last is not None
    assert last.job_id == first


def test_connections_that_the_server_ended_are_replaced_and_nobody_notices(
    database: Database, store: Store, submit: Callable[[str], str], postgres_url: str
) -> None:
    job = submit("/shared/1")
    end_connections(postgres_url)
    assert store.job(job).state == "queued"


def test_a_transaction_whose_connection_was_cut_is_done_again(database: Database, postgres_url: str) -> None:
    tries: list[int] = []

    @retried
    def work() -> int:
        with database.writing() as session:
            session.execute(text("SELECT 1"))
            tries.append(1)
            if len(tries) == 1:
                end_connections(postgres_url)
            session.execute(text("INSERT INTO chores VALUES ('once', now())"))
            return len(tries)

    assert work() == 2
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM chores")).scalar_one() == 1


def test_of_two_transactions_that_wait_for_each_other_both_are_done_in_the_end(
    database: Database, store: Store, submit: Callable[[str], str]
) -> None:
    one, two = submit("/shared/1"), submit("/shared/2")
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    @retried
    def cross(first: str, second: str) -> None:
        with database.writing() as session:
            tries.append(first)
            session.execute(update(JobRow).where(JobRow.id == first).values(priority=JobRow.priority + 1))
            if len(tries) <= 2:
                both_hold_one.wait(30)
            session.execute(update(JobRow).where(JobRow.id == second).values(priority=JobRow.priority + 1))

    at_once([lambda: cross(one, two), lambda: cross(two, one)])
    assert len(tries) == 3
    assert [store.job(job).priority for job in (one, two)] == [2, 2]


@pytest.mark.usefixtures("no_pauses")
def test_a_lock_that_is_never_given_back_is_an_error_that_says_to_try_again(
    postgres_url: str, database: Database, submit: Callable[[str], str]
) -> None:
    job = submit("/shared/1")
    impatient = Database(f"{postgres_url}&options=-c%20lock_timeout%3D20ms")
    with database.writing() as session:
        session.execute(select(JobRow).where(JobRow.id == job).with_for_update())
        with pytest.raises(StoreAway, match="does not answer") as caught:
            Store(impatient).cancel(job)
    assert (caught.value.http_status, caught.value.retryable) == (503, True)
    assert Store(impatient).cancel(job).state == "canceled"
    impatient.close()


@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_is_not_there_is_named_as_the_cause() -> None:
    database = Database("postgresql://convsvc@127.0.0.1:1/jobs")
    with pytest.raises(StoreAway, match=r"127\.0\.0\.1"):
        Store(database).counts()
    database.close()


def test_faults_of_our_own_are_not_tried_again(database: Database) -> None:
    tries: list[int] = []

    @retried
    def wrong() -> None:
        tries.append(1)
        with database.reading() as session:
            session.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(DBAPIError):
        wrong()
    with pytest.raises(NoSuchJob):
        Store(database).job("nope")
    assert len(tries) == 1


def test_a_submission_whose_answer_was_lost_is_not_refused_as_its_own_rival(
    database: Database, store: Store, a_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The transaction is committed, but the connection is gone before the server can say so: it is tried again.
    real, lost = retrying._retrying, iter([True, False])

    def twice(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        answer = real(work, *given, **named)
        return real(work, *given, **named) if next(lost, False) else answer

    monkeypatch.setattr(retrying, "_retrying", twice)
    view, created = store.submit(parse_job(a_job()))
    assert (view.state, created) == ("queued", True)
    assert [job.id for job in store.jobs().jobs] == [view.id]


def end_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def at_once(acts: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
