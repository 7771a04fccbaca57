"""Several API processes and several executors on one job store, on either database, and what their questions cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import event, select

from convsvc.errors import TargetBusy
from convsvc.service.access.identity import Caller
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow, TenantRow
from convsvc.spec import parse_job

EACH, COMMON = 90, 20  # targets of one replica's own, and targets that both replicas are asked for

# An API replica: {number} jobs from eight threads, at once. Prints what came of each.
SUBMITTER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from convsvc.errors import TargetBusy
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.spec import parse_job

url, name, each, common = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
targets = [f"/shared/{name}/{n}" for n in range(each)] + [f"/shared/common/{n}" for n in range(common)]
store = Store(Database(url))

def submit(target):
    job = {"source": {"format": "huggingface", "path": "/shared/in"}, "target": {"format": "mindspeed-llm", "path": target}}
    try:
        return store.submit(parse_job(job))[0].id
    except TargetBusy:
        return None

print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(submit, targets))))
"""

# An executor: claims from three slots until its standard input is closed and nothing is left. Prints the ids.
CLAIMER = """
import json, sys, threading
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database

claims, found, last = Claims(Database(sys.argv[1]), sys.argv[2], lease_s=600), [], threading.Event()

def work():
    while True:
        closing = last.is_set()
        claim = claims.claim()
        if claim is not None:
            found.append((claim.job_id, claim.fence))
        elif closing:
            return
        else:
            last.wait(0.02)

print("ready", flush=True)
slots = [threading.Thread(target=work) for _ in range(3)]
for slot in slots:
    slot.start()
sys.stdin.read()
last.set()
for slot in slots:
    slot.join()
print(json.dumps(found))
"""

# A process whose clock is wrong by some seconds, in everything that Python asks of it.
WRONG_CLOCK = """
import datetime, sys, time
wrong, right, real = float(sys.argv[2]), time.time, datetime.datetime

class Wrong(real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(right() + wrong, tz)

time.time, datetime.datetime = lambda: right() + wrong, Wrong
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
claims = Claims(Database(sys.argv[1]), "wrong", lease_s=60)
claim = claims.claim()
claim and claims.renew(claim)
print(claim.job_id if claim else "nothing")
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def answer(child: subprocess.Popen[str], given: str = "") -> Any:
    out, _ = child.communicate(given, timeout=120)
    assert child.returncode == 0
    return json.loads(out)


def test_two_replicas_and_two_executors_lose_nothing_and_do_nothing_twice(database: Database, database_url: str) -> None:
    with (
        process(SUBMITTER, database_url, "a", EACH, COMMON) as first,
        process(SUBMITTER, database_url, "b", EACH, COMMON) as second,
        process(CLAIMER, database_url, "x") as one,
        process(CLAIMER, database_url, "y") as two,
    ):
        for child in (first, second, one, two):
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in (first, second):
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        submitted = [answer(first), answer(second)]
        claimed = [answer(one), answer(two)]
    ids = [job for answers in submitted for job in answers if job]
    assert len(ids) == len(set(ids)) == 2 * EACH + COMMON
    assert [bool(a) != bool(b) for a, b in zip(*(answers[EACH:] for answers in submitted), strict=True)] == [True] * COMMON
    assert sorted(job for answers in claimed for job, _ in answers) == sorted(ids)
    assert {fence for answers in claimed for _, fence in answers} == {1}
    with database.reading() as session:
        rows = session.execute(select(JobRow.active_target, JobRow.state, JobRow.executor)).all()
    assert len({row[0] for row in rows}) == len(rows) == 2 * EACH + COMMON
    assert {row[1] for row in rows} == {"planning"}
    assert Counter(row[2] for row in rows) == {"x": len(claimed[0]), "y": len(claimed[1])}


@pytest.mark.parametrize("wrong_s", [-3600, 3600], ids=["late", "early"])
def test_leases_are_by_the_databases_clock_whatever_the_executors_say(
    wrong_s: int, database: Database, database_url: str, store: Store, claims: Claims, a_job: Callable[..., Any]
) -> None:
    held, _ = store.submit(parse_job(a_job("/shared/held")))
    assert claims.claim() is not None
    free, _ = store.submit(parse_job(a_job("/shared/free")))
    with process(WRONG_CLOCK, database_url, wrong_s) as child:
        out, _ = child.communicate(timeout=60)
    # It did not take the job that is held, and the one that it took is held for its lease, not longer and not shorter.
    assert out.strip() == free.id
    assert claims.claim() is None
    assert store.job(held.id).executor == claims.name
    with database.reading() as session:
        until, queued = session.execute(select(JobRow.lease_until, JobRow.queued_at).where(JobRow.id == free.id)).one()
    assert 59 < (until - queued).total_seconds() < 120


def test_fifty_threads_that_submit_at_once_all_get_their_answer(store: Store, a_job: Callable[..., Any]) -> None:
    outcomes: list[str] = []
    ready = threading.Barrier(50)

    def submit(number: int) -> None:
        ready.wait(60)
        for turn in range(4):
            try:
                outcomes.append(store.submit(parse_job(a_job(f"/shared/{number}/{turn}")))[0].state)
            except TargetBusy as busy:
                outcomes.append(str(busy))

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert Counter(outcomes) == {"queued": 200}
    assert store.counts() == {"queued": 200}


@pytest.mark.parametrize("deed", ["submit", "claim", "list", "idle"])
def test_no_deed_reads_the_whole_table_of_jobs(deed: str, sqlite_url: str, a_job: Callable[..., Any]) -> None:
    database = Database(sqlite_url)
    database.migrate()
    store, claims, callers = Store(database), Claims(database, "executor"), [Caller(n, n, frozenset()) for n in ("a", "b")]
    with database.writing() as session:
        limits = {"most_running_jobs": 99, "most_queued_jobs": 99, "most_active_bytes": 99}
        session.add_all(TenantRow(name=each.tenant, roots=[], created_at=datetime.now(timezone.utc), **limits) for each in callers)
    for number in range(4):
        store.submit(parse_job(a_job(f"/shared/{number}")), caller=callers[number % 2])
    deeds: dict[str, Callable[[], object]] = {
        "submit": lambda: store.submit(parse_job(a_job("/shared/new")), "key", caller=callers[0]),
        "claim": claims.claim,
        "list": lambda: (store.jobs(tenant="a"), store.jobs(state="queued"), store.counts()),
        "idle": claims._is_any_waiting,
    }
    plans = plans_of(database, deeds[deed])
    assert plans
    assert [line for line in plans if re.match("SCAN (jobs|best)(?! USING (COVERING )?INDEX| USING INTEGER)", line)] == []
    database.close()


def plans_of(database: Database, deed: Callable[[], object]) -> list[str]:
    """How SQLite goes about each query of the deed."""
    said: list[tuple[str, Any]] = []
    event.listen(database.engine, "before_cursor_execute", lambda _c, _k, statement, given, *_: said.append((statement, given)))
    deed()
    asked = [(statement, given) for statement, given in said if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE"))]
    with database.engine.connect() as connection:
        return [row[3] for statement, given in asked for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
