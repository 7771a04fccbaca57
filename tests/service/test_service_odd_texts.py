"""No text can stop an executor: NULs, halves of characters and endless names are kept so that people can read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.exc import DataError, OperationalError

from convsvc.errors import ServiceError, SourceError
from convsvc.notes import Note
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.patience import patient
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import JobRow
from convsvc.service.store.texts import clean_json, clean_text
from convsvc.spec import SPEC_VERSION, parse_job

Make = Callable[..., dict[str, Any]]
ODD = ["q_proj\0.weight", "model-\udcff.safetensors", "x" * 5000, "\0", "\ud800", "a\nb\x1b]0;c\x07"]


@given(st.text(st.characters(exclude_categories=()), max_size=50), st.integers(1, 20))
def test_a_cleaned_text_can_be_kept_anywhere_and_cleaning_again_changes_nothing(text: str, most: int) -> None:
    cleaned = clean_text(text, most)
    assert "\0" not in cleaned
    assert len(cleaned) <= most
    assert clean_text(cleaned, most) == cleaned.encode().decode() == cleaned


def test_json_is_cleaned_to_its_depth() -> None:
    assert clean_json({"a\0": ["\udcff", {"b": "\0"}], "c": float("nan"), "d": 1}) == {
        "a\\x00": ["\\udcff", {"b": "\\x00"}],
        "c": "nan",
        "d": 1,
    }


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_text_of_any_kind_is_kept_wherever_an_executor_reports_one(odd: str, store: Store, claims: Claims, a_job: Make) -> None:
    job_id = store.submit(parse_job(a_job()))[0].id
    claim = claims.claim()
    assert claim is not None
    error = SourceError(odd, facts=[odd], do=odd, details={odd: odd}).as_dict()
    claims.planned(claim, odd, {"notes": [Note("lost", odd).as_dict()]}, [PlannedTask(0, odd, 10)])
    claims.phase(claim, odd, 1)
    claims.task_started(claim, 0, 1, worker=odd)
    claims.task_failed(claim, 0, error, will_retry=True)
    claims.log(claim, odd)
    claims.task_started(claim, 0, 2, worker=odd)
    claims.task_done(claim, 0, seconds=1.0, worker=odd)
    claims.fail(claim, error)
    job = store.job(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["message"] == clean_text(odd)
    assert any(line.message == clean_text(odd) for line in store.logs(job_id))


@pytest.mark.parametrize("odd", ODD[:2], ids=ascii)
def test_an_error_with_such_a_text_ends_its_job_alone(odd: str, store: Store, claims: Claims, stand_in: Any, a_job: Make) -> None:
    def fail(task: int) -> None:
        raise SourceError(f"there is no {odd}")

    ids = [store.submit(parse_job(a_job(f"/shared/{number}")))[0].id for number in range(2)]
    executor = Executor(claims, stand_in)
    assert executor.run_one(stand_in(before=fail))
    assert executor.run_one(stand_in())
    assert [store.job(job_id).state for job_id in ids] == ["failed", "succeeded"]


def test_a_job_that_this_version_cannot_read_fails_alone_and_others_run(
    store: Store, claims: Claims, database: Database, stand_in: Any, a_job: Make
) -> None:
    ids = [store.submit(parse_job(a_job(f"/shared/{number}")))[0].id for number in range(3)]
    with database.writing() as session:
        spec = a_job("/shared/0", options={"of_tomorrow": True})
        session.execute(update(JobRow).where(JobRow.id == ids[0]).values(spec=spec))
        session.execute(update(JobRow).where(JobRow.id == ids[1]).values(spec={"nothing": 1}, state="running", lease_until=None))
    executor = Executor(claims, stand_in)
    assert executor.run_one(stand_in())
    jobs = [store.job(job_id) for job_id in ids]
    assert [job.state for job in jobs] == ["failed", "failed", "succeeded"]
    assert "options.of_tomorrow: there is no such field" in str(jobs[0].error)
    assert "cannot read the job" in store.logs(ids[1])[-1].message


def test_a_job_of_a_newer_version_waits_for_an_executor_of_that_version(
    store: Store, claims: Claims, database: Database, a_job: Make
) -> None:
    new, old = (store.submit(parse_job(a_job(f"/shared/{number}")))[0].id for number in range(2))
    with database.writing() as session:
        session.execute(update(JobRow).where(JobRow.id == new).values(spec_version=SPEC_VERSION + 1, spec={"of": "tomorrow"}))
    claim = claims.claim()
    assert claim is not None
    assert claim.job_id == old
    assert claims.claim() is None
    assert store.job(new).state == "queued"


class _Refusing:
    """Claims of which one method meets a database that does not take its words, or that is away once."""

    def __init__(self, error: Exception) -> None:
        self.errors, self.told = [error], 0

    def log(self, *_: object) -> None:
        self.told += 1
        if self.errors:
            raise self.errors.pop()


def test_what_the_store_refuses_is_not_told_again() -> None:
    refusing = _Refusing(DataError("INSERT", None, ValueError("text fields cannot contain NUL")))
    with pytest.raises(ServiceError, match="does not take what it was told"):
        patient(refusing, lambda: None).log(None, "x")  # type: ignore[arg-type]  # a stand-in
    assert refusing.told == 1


def test_a_store_that_is_away_is_told_again() -> None:
    away = _Refusing(OperationalError("INSERT", None, Exception("server closed the connection")))
    patient(away, lambda: None).log(None, "x")  # type: ignore[arg-type]  # a stand-in
    assert away.told == 2


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_the_schema_allows_is_taken_by_both_databases(data: st.DataObject, store: Store, a_job: Make) -> None:
    words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
    longest = data.draw(st.booleans())
    name, model_type = ("x" * 200, "y" * 200) if longest else (data.draw(words), data.draw(words.filter(str.strip)))
    target = f"/shared/{data.draw(st.uuids())}"
    job = store.submit(parse_job(a_job(target, name=name, model_type=model_type)))[0]
    assert (job.name, job.model_type) == (name, model_type)
    store.cancel(job.id)
