"""Jobs that write nothing: the target of a job is verified, two checkpoints are compared, by the real runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.comparison import compare
from convsvc.conversion import convert, verify
from convsvc.errors import JobError, PathRefused
from convsvc.plan.planner import make_plan
from convsvc.roots import Roots
from convsvc.service.access.places import check_places
from convsvc.service.errors import Draining
from convsvc.service.executor.executor import Executor
from convsvc.service.executor.runner import EngineRunner, StoreListener
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.jobs import Store
from convsvc.service.views import JobView
from convsvc.spec import dump_job, parse_job
from tests.dialects.megatron.test_text_decoders import saved, wrapper
from tests.service.conftest import job_for
from tests.tiny_checkpoints import write_llama


class NoEngine(EngineRunner):
    """A runner whose engine may not be asked for."""

    def __init__(self) -> None:
        super().__init__("none of the engines")


class Stopped:
    """The real runner, asked to stop at a phase: as a cancel does, or as draining does."""

    def __init__(self, store: Store, phase: str, drain: bool) -> None:
        self.store, self.phase, self.drain = store, phase, drain

    def __call__(self, claim: Claim, listener: StoreListener, should_stop: Any) -> dict[str, Any]:
        def stop() -> bool:
            if self.store.job(claim.job_id).progress.phase != self.phase:
                return False
            if self.drain:
                raise Draining("the executor ends")
            return True

        return NoEngine()(claim, listener, stop)

    def close(self) -> None:
        pass


@pytest.fixture
def job(source: Path, tmp_path: Path) -> dict[str, Any]:
    """A job that was run."""
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2}
    job: dict[str, Any] = {"source": {"format": "huggingface", "path": str(source)}, "target": target, "options": {"verify": "none"}}
    convert(job, engine="inline")
    return job


def comparison_of(job: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"mode": "compare", "source": {"path": job["source"]["path"]}, "target": {"path": job["target"]["path"]}, **more}


def change_a_weight(job: dict[str, Any]) -> None:
    path = next(Path(job["source"]["path"]).glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x01
    path.write_bytes(data)


def ended(store: Store, claims: Claims, job: dict[str, Any]) -> JobView:
    job_id = store.submit(parse_job(job))[0].id
    runner = NoEngine()
    assert Executor(claims, lambda: runner).run_one(runner)
    return store.job(job_id)


def test_a_verification_answers_what_it_answers_here(store: Store, claims: Claims, job: dict[str, Any]) -> None:
    found = ended(store, claims, {**job, "mode": "verify"})
    assert (found.state, found.mode, found.model_type) == ("succeeded", "verify", "llama2"), found.error
    assert found.result == verify(job)
    assert found.plan is not None
    assert found.notes == found.plan["notes"]
    assert store.tasks(found.id) == []
    phases = [event.data["phase"] for event in store.events(found.id) if event.kind == "phase"]
    assert phases == ["reopen", "compare", "witness"]


def test_a_target_that_was_changed_fails_the_verification(store: Store, claims: Claims, job: dict[str, Any]) -> None:
    change_a_weight(job)
    found = ended(store, claims, {**job, "mode": "verify"})
    assert found.state == "failed"
    assert found.error is not None
    assert found.error["type"] == "VerifyError"


def test_a_comparison_answers_what_it_answers_here(store: Store, claims: Claims, job: dict[str, Any]) -> None:
    found = ended(store, claims, comparison_of(job, model_type="llama2"))
    assert (found.state, found.mode, found.plan) == ("succeeded", "compare", None), found.error
    assert found.result == compare(job["source"]["path"], job["target"]["path"])
    assert found.result["same"]


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_comparison_of_text_decoders_is_one_of_them_alone(store: Store, claims: Claims, tmp_path: Path, side: str) -> None:
    hf = write_llama(tmp_path / "hf")
    places = {"source": str(saved(hf, tmp_path, "language_model.", towers=True)), "target": str(wrapper(hf, tmp_path / "vl"))}
    wanted: dict[str, Any] = {"mode": "compare", **{name: {"path": path} for name, path in places.items()}}
    assert ended(store, claims, wanted).state == "failed"
    wanted[side]["modules"] = ["text_decoder"]
    found = ended(store, claims, wanted)
    assert found.state == "succeeded", found.error
    assert found.result == compare(*places.values(), modules=["text_decoder"])


def test_a_comparison_that_finds_a_difference_has_failed_and_says_all_of_it(store: Store, claims: Claims, job: dict[str, Any]) -> None:
    change_a_weight(job)
    found = ended(store, claims, comparison_of(job))
    assert found.state == "failed"
    assert found.error is not None
    assert found.error["type"] == "VerifyError"
    answer = compare(job["source"]["path"], job["target"]["path"])
    assert not answer["same"]
    assert found.error["details"]["comparison"] == answer
    assert answer["different"][0]["name"] in found.error["facts"][0]


def test_a_job_that_writes_nothing_holds_no_target(store: Store, job: dict[str, Any]) -> None:
    for wanted in (job, {**job, "mode": "verify"}, comparison_of(job), comparison_of(job)):
        assert store.submit(parse_job(wanted))[1]
    verification = store.submit(parse_job({**job, "mode": "verify"}))[0].id
    store.cancel(verification)
    assert store.retry(verification).state == "queued"


@pytest.mark.parametrize("mode", ["verify", "compare"])
def test_a_cancel_and_a_drain_are_noticed_between_two_parts(store: Store, claims: Claims, job: dict[str, Any], mode: str) -> None:
    wanted = {**job, "mode": "verify"} if mode == "verify" else comparison_of(job)
    job_id = store.submit(parse_job(wanted))[0].id
    for drain in (True, False):
        runner = Stopped(store, "compare", drain)
        Executor(claims, lambda runner=runner: runner).run_one(runner)
        found = store.job(job_id)
        assert found.state == ("queued" if drain else "failed")
    assert found.error is not None
    assert found.error["type"] == "Canceled"


def test_both_sides_of_a_comparison_must_lie_in_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside, outside):
        path.mkdir()
    roots = Roots((str(inside),))

    def sides(source: Path, target: Path) -> dict[str, Any]:
        return {"mode": "compare", "source": {"path": str(source)}, "target": {"path": str(target)}}

    check_places(parse_job(sides(inside / "a", inside)), roots)
    for source, target in ((outside, inside), (inside, outside)):
        with pytest.raises(PathRefused):
            check_places(parse_job(sides(source, target)), roots)


def test_what_is_said_of_a_comparison_is_its_paths_and_of_another_job_its_formats() -> None:
    job = job_for()
    compared = {"mode": "compare", "source": {"path": "/a"}, "target": {"path": "/b", "iteration": "5"}}
    assert parse_job(dump_job(parse_job(compared))) == parse_job(compared)
    for wrong in (
        {**job, "mode": "compare"},
        {**compared, "options": {"dtype": "bf16"}},
        {**compared, "target": {"path": "/b", "tensor_parallel_size": 2}},
        {**job, "mode": "look"},
        {**job, "source": {"format": "detected", "path": "/a"}},
        {**job, "mode": "verify", "target": {"format": "detected", "path": "/b"}},
    ):
        with pytest.raises(JobError):
            parse_job(wrong)


def test_a_conversion_is_said_as_ever_and_no_other_job_is_planned_as_one() -> None:
    assert "mode" not in dump_job(parse_job(job_for()))
    for wanted in ({**job_for(), "mode": "verify"}, {"mode": "compare", "source": {"path": "/a"}, "target": {"path": "/b"}}):
        with pytest.raises(JobError, match="not to convert"):
            make_plan(parse_job(wanted))


@pytest.mark.parametrize("side", ["source", "target"])
def test_what_is_read_is_opened_beneath_the_roots_whatever_was_checked_before(job: dict[str, Any], side: str) -> None:
    """A directory may have become a link since the job was taken in."""
    inside = {"source": job["target"]["path"], "target": job["source"]["path"]}[side]
    with pytest.raises(PathRefused):
        compare(job["source"]["path"], job["target"]["path"], roots=Roots((inside,)))
