"""Two versions side by side over one job store, as while an installation is upgraded one process after the other: real processes."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import inspect
from sqlalchemy.types import String

from convsvc.service.errors import StoreTooNew
from convsvc.service.store import database as database_module
from convsvc.service.store.database import MIGRATIONS, Database
from tests.fault import tomorrows_convsvc
from tests.fault.fleet import CONVSVC, Api, fault_environment, until
from tests.tiny_checkpoints import write_llama

TOMORROWS_SCRIPT = str(Path(tomorrows_convsvc.__file__))
# From this one on an older version works on the tables of a newer one.
FIRST_ADDITIVE = "0003"


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """Today's migrations and tomorrow's."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with_tomorrows(folder)
    return folder


def with_tomorrows(folder: Path, revision: str = tomorrows_convsvc.MIGRATION) -> None:
    last = max(path.name for path in (folder / "versions").glob("0*.py"))[:4]
    text = tomorrows_convsvc.ADDED.replace("DOWN", repr(last)).replace(repr(tomorrows_convsvc.MIGRATION), repr(revision))
    (folder / "versions" / f"{revision}_tomorrow.py").write_text(text)


class Installation:
    """Processes of either version over one job store; `today` and `tomorrow` are how their command lines begin."""

    def __init__(self, folder: Path, migrations: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.environment = fault_environment(f"sqlite:///{folder}/jobs.db")
        self.source = write_llama(folder / "hf", layers=1)
        self.today = {"serve": [CONVSVC, "serve"], "executor": [sys.executable, "-m", "convsvc.service.executor"]}
        tomorrow = [sys.executable, TOMORROWS_SCRIPT, str(migrations)]
        self.tomorrow = {"serve": [*tomorrow, "serve"], "executor": [*tomorrow, "executor-process"]}

    def api(self, version: dict[str, list[str]]) -> Api:
        api = Api(self.environment, self.folder / "api.log", program=version["serve"])
        api.start()
        self._stack.callback(api.kill)
        return api

    @contextmanager
    def executor(self, version: dict[str, list[str]]) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "executor.log").open("a") as log:
            process = subprocess.Popen([*version["executor"], "--engine", "inline"], env=self.environment, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def job(self, name: str, **options: Any) -> dict[str, Any]:
        source = {"format": "huggingface", "path": str(self.source)}
        return {"source": source, "target": {"format": "mindspeed-llm", "path": str(self.folder / "out" / name)}, "options": options}

    def done_through(self, api: Api, name: str) -> None:
        """A job that is submitted to `api`, and succeeds."""
        job_id = api.submit(self.job(name), name)
        until(lambda: api.get(f"/jobs/{job_id}")["state"] == "succeeded", f"the job {name}", 90)


@pytest.fixture
def installation(tmp_path: Path, migrations: Path) -> Iterator[Installation]:
    with ExitStack() as stack:
        yield Installation(tmp_path, migrations, stack)


def test_while_an_installation_is_upgraded_both_versions_work_and_no_job_is_lost(installation: Installation) -> None:
    here = installation
    old = here.api(here.today)
    with here.executor(here.today):
        here.done_through(old, "before")
        new = here.api(here.tomorrow)  # migrates
        here.done_through(old, "old API, old executor, new tables")
        newer = new.submit(here.job("newer", of_tomorrow=True), "newer")
        here.done_through(old, "behind the newer one")
        seen = old.get(f"/jobs/{newer}")
        assert (seen["state"], seen["waiting"]["reason"], seen["spec"]["options"]["of_tomorrow"]) == ("queued", "version", True)
        assert httpx.get(f"{old.url}/readyz").status_code == 200
    old.kill()
    old.start()  # both old processes start again on the newer tables
    with here.executor(here.today):
        here.done_through(old, "old ones, started on new tables")
        assert old.get(f"/jobs/{newer}")["state"] == "queued"
    with here.executor(here.tomorrow):
        until(lambda: old.get(f"/jobs/{newer}")["state"] == "succeeded", "the newer job", 90)
        here.done_through(old, "old API, new executor")
        here.done_through(new, "after")
    jobs = new.jobs()
    assert {job["state"] for job in jobs} == {"succeeded"}
    assert len(jobs) == 7
    assert "Traceback" not in (here.folder / "api.log").read_text() + (here.folder / "executor.log").read_text()


@pytest.fixture
def revision_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Database]:
    """A job store whose tables a version with such a migration has made."""

    def made(revision: str) -> Database:
        folder = tmp_path / "newer"
        shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        with_tomorrows(folder, revision)
        url = f"sqlite:///{tmp_path}/jobs.db"
        with monkeypatch.context() as patch:
            patch.setattr(database_module, "MIGRATIONS", folder)
            newer = Database(url)
            newer.migrate()
            newer.close()
        return Database(url)

    return made


def test_tables_of_a_later_generation_are_refused_in_words(revision_of: Callable[[str], Database]) -> None:
    database = revision_of("1000")
    with pytest.raises(StoreTooNew, match="the job store's tables are at 1000, this version of convsvc knows 0"):
        database.migrate()
    database.close()


def test_every_migration_since_the_first_rolling_one_only_adds_what_older_versions_need_not_know(tmp_path: Path) -> None:
    versions = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    for older, newer in itertools.pairwise(versions):
        if older < FIRST_ADDITIVE:
            continue
        database.migrate(older)
        before = tables(database)
        database.migrate(newer)
        assert not breaking(before, tables(database)), f"{newer} is not additive: an older version would stumble over it"
    database.close()


Tables = dict[str, dict[str, Any]]


def tables(database: Database) -> Tables:
    looked = inspect(database.engine)
    return {
        name: {
            "columns": {column["name"]: column for column in looked.get_columns(name)},
            "unique": {str(item["column_names"]) for item in looked.get_unique_constraints(name)}
            | {str(item["column_names"]) for item in looked.get_indexes(name) if item["unique"]},
            "checks": {item["sqltext"] for item in looked.get_check_constraints(name)},
        }
        for name in looked.get_table_names()
    }


def breaking(before: Tables, after: Tables) -> list[str]:
    """What an older version, which reads and writes the tables as they were before, would stumble over."""
    found = [f"table {name} is gone" for name in before if name not in after]
    for name in before.keys() & after.keys():
        old, new = before[name]["columns"], after[name]["columns"]
        found += [f"{name}.{column} is gone" for column in old.keys() - new.keys()]
        found += [f"{name}.{column} must be given" for column in new.keys() - old.keys() if must_be_given(new[column])]
        found += [f"{name}.{column} holds less" for column in old.keys() & new.keys() if holds_less(old[column], new[column])]
        found += [f"{name} has a new bound" for kind in ("unique", "checks") if after[name][kind] - before[name][kind]]
    return found


def must_be_given(column: Any) -> bool:
    return not column["nullable"] and column["default"] is None


def holds_less(old: Any, new: Any) -> bool:
    if must_be_given(new) and not must_be_given(old):
        return True
    if isinstance(old["type"], String) and isinstance(new["type"], String):
        return (new["type"].length or 10**9) < (old["type"].length or 10**9)
    return type(old["type"]) is not type(new["type"])


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE jobs DROP COLUMN result",
        "ALTER TABLE jobs RENAME COLUMN phase TO stage",
        "ALTER TABLE executors ADD COLUMN zone VARCHAR(20) NOT NULL",
        "CREATE UNIQUE INDEX one_phase ON jobs (phase)",
        "DROP TABLE audit",
    ],
)
def test_a_change_over_which_an_older_version_stumbles_is_seen(change: str, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    database.migrate()
    before = tables(database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(change)
    assert breaking(before, tables(database))
    database.close()
