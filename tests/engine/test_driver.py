"""A whole run, on the inline engine: real files, real errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convsvc.engine import Call, Engine, Outcome, make_engine, phase
from convsvc.engine.driver import run_plan
from convsvc.engine.inline import InlineEngine
from convsvc.engine.listener import Listener
from convsvc.errors import Canceled, SourceChanged, StorageError, TargetBusy, TargetExists, VerifyError
from convsvc.execute import worker
from convsvc.execute.staging.sites import staging_path
from convsvc.execute.staging.workspace import Staging
from convsvc.execute.steps.budgets import Budget
from tests.execute.handmade import Handmade, make_handmade, reverse_of


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    return make_handmade(tmp_path)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with closing(make_engine("inline")) as opened:
        yield opened


class Recorder(Listener):
    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.done: list[int] = []
        self.failed: list[tuple[int, bool]] = []

    def phase(self, name: str, total: int) -> None:
        self.phases.append((name, total))

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self.done.append(task)

    def task_failed(self, task: int, error: dict[str, Any], will_retry: bool, worker: str) -> None:
        self.failed.append((task, will_retry))


class Flaky(InlineEngine):
    """Loses the first `times` tasks, as a cluster does, after they were done; with `probes` also the call that asks if it lives."""

    def __init__(self, times: int, *, probes: bool = False) -> None:
        super().__init__()
        self.times, self.probes = times, probes

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        for number, outcome in enumerate(outcomes):
            if self.times > 0 and (self.probes or not outcome.id.startswith("probe")):
                self.times -= 1
                outcomes[number] = Outcome(outcome.id, error=StorageError("worker died").as_dict(), lost=True)
        return outcomes


def test_a_run_puts_the_whole_target_in_place_and_says_what_it_did(made: Handmade, engine: Engine) -> None:
    heard = Recorder()
    result = run_plan(made.plan, engine, verify="digest", listener=heard)
    made.check_target()
    assert heard.phases == [("write", 2), ("seal", 0), ("verify", 2), ("publish", 0)]
    assert result.tasks_done == 2
    assert result.bytes_written == 2 * made.w.nbytes + 2 * made.norm.nbytes + made.vocab.nbytes
    assert sorted(result.digests)[:2] == ["model.safetensors/norm", "model.safetensors/w_t"]
    assert os.stat(made.target).st_mode & 0o777 == 0o755
    assert sorted(path.name for path in made.target.parent.iterdir()) == ["target", "target.conversion-report.json"]
    assert result.report == f"{made.target}.conversion-report.json"


@pytest.mark.parametrize("budget", [Budget(1000), Budget(1000, 4000, short_run_bytes=1 << 20)], ids=["tiles", "wide tiles"])
def test_a_run_with_tiny_buffers_gives_the_same_bytes(
    made: Handmade, engine: Engine, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BUDGET", budget)
    run_plan(made.plan, engine)
    made.check_target()


def test_bytes_of_tasks_that_run_are_told_while_they_run(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(InlineEngine):
        """Says nothing for a moment, as if tasks took long; by then their workers have noted what they moved."""

        def wait(self, timeout_s: float) -> list[Outcome]:
            return super().wait(timeout_s) if self.seen else self._nothing()

        seen = False

        def _nothing(self) -> list[Outcome]:
            while self._outcomes.qsize() < 2:
                self._idle.wait(0.01)
            self.seen = True
            return []

    class Moves(Listener):
        told: list[dict[int, int]] = []

        def tasks_moved(self, moved: dict[int, int]) -> None:
            self.told.append(moved)

    monkeypatch.setattr(phase, "LOOK_S", 0.0)
    heard = Moves()
    with closing(Patient()) as patient:
        run_plan(made.plan, patient, listener=heard)
    assert heard.told[0].keys() == {0, 1}
    assert all(size > 0 for size in heard.told[0].values())


def test_a_roundtrip_compares_the_written_files_with_the_source(made: Handmade, engine: Engine) -> None:
    heard = Recorder()
    run_plan(made.plan, engine, verify="roundtrip", reverse_tasks=reverse_of(made.plan), listener=heard)
    made.check_target()
    assert ("compare", 2) in heard.phases


def test_a_roundtrip_without_the_way_back_is_a_programming_error(made: Handmade, engine: Engine) -> None:
    with pytest.raises(ValueError, match="reverse tasks"):
        run_plan(made.plan, engine, verify="roundtrip")


def test_what_a_listener_raises_ends_the_run_and_its_tasks(made: Handmade, engine: Engine) -> None:
    class Lost(Exception):
        pass

    class Fenced(Listener):
        def task_started(self, task: int, name: str, attempt: int) -> None:
            raise Lost

    with pytest.raises(Lost):
        run_plan(made.plan, engine, listener=Fenced())
    assert engine.wait(0.3) == []
    run_plan(made.plan, engine, on_exists="resume")
    made.check_target()


def test_a_roundtrip_names_the_first_element_that_differs(made: Handmade, engine: Engine) -> None:
    class Tampering(Listener):
        def phase(self, name: str, total: int) -> None:
            if name == "compare":
                path = staging_path(made.target) / "model.safetensors"
                tensor = made.plan.target_tensors[0]
                with open(path, "r+b") as file:
                    file.seek(tensor.file_offset + 4 * (3 * 64 + 5))  # w_t[3, 5] is w[5, 3]
                    file.write(b"\1\2\3\4")

    with pytest.raises(VerifyError, match="does not give tensor w ") as caught:
        run_plan(made.plan, engine, verify="roundtrip", reverse_tasks=reverse_of(made.plan), listener=Tampering())
    assert caught.value.details["index"] == [5, 3]
    assert caught.value.details["found"] == "01020304"
    assert caught.value.details["expected"] == made.w[5, 3].tobytes().hex()
    assert not made.target.exists()


def test_a_byte_flipped_after_writing_fails_the_digest_and_nothing_is_published(made: Handmade, engine: Engine) -> None:
    class Tampering(Listener):
        def phase(self, name: str, total: int) -> None:
            if name == "verify":
                with open(staging_path(made.target) / "rank" / "model.pt", "r+b") as file:
                    tensor = next(t for t in made.plan.target_tensors if t.name == "w1")
                    file.seek(tensor.file_offset + 100)
                    (byte,) = file.read(1)
                    file.seek(tensor.file_offset + 100)
                    file.write(bytes([byte ^ 1]))

    with pytest.raises(VerifyError, match=r"tensor w1 in rank/model.pt is not what was written"):
        run_plan(made.plan, engine, verify="digest", listener=Tampering())
    assert not made.target.exists()


def test_a_truncated_source_is_named_and_not_tried_again(made: Handmade, engine: Engine) -> None:
    path = made.source_files[1]
    os.truncate(path, path.stat().st_size - 8)
    heard = Recorder()
    with pytest.raises(SourceChanged, match=r"b\.safetensors changed"):
        run_plan(made.plan, engine, listener=heard)
    assert all(not will_retry for _, will_retry in heard.failed)
    assert not made.target.exists()


def test_a_source_that_was_touched_is_refused(made: Handmade, engine: Engine) -> None:
    os.utime(made.source_files[0], ns=(1, 1))
    with pytest.raises(SourceChanged):
        run_plan(made.plan, engine)


def test_lost_tasks_are_tried_again(made: Handmade) -> None:
    heard = Recorder()
    with closing(Flaky(2)) as engine:
        result = run_plan(made.plan, engine, listener=heard)
    made.check_target()
    assert result.tasks_retried == 2
    assert [will_retry for _, will_retry in heard.failed] == [True, True]


def test_a_task_that_is_always_lost_ends_the_run(made: Handmade) -> None:
    with closing(Flaky(100)) as engine, pytest.raises(StorageError, match="was lost 2 times"):
        run_plan(made.plan, engine, max_attempts=2)
    assert not made.target.exists()


def test_canceling_leaves_nothing(made: Handmade, engine: Engine) -> None:
    class Stop(Listener):
        asked = False

        def task_started(self, task: int, name: str, attempt: int) -> None:
            self.asked = True

    stop = Stop()
    with pytest.raises(Canceled):
        run_plan(made.plan, engine, listener=stop, should_stop=lambda: stop.asked)
    made.check_nothing_left()


def test_a_failed_run_is_resumed_where_it_stopped(made: Handmade, engine: Engine) -> None:
    class Stumble(Listener):
        def phase(self, name: str, total: int) -> None:
            if name == "seal":
                raise StorageError("the power went")

    with pytest.raises(StorageError, match="the power went"):
        run_plan(made.plan, engine, listener=Stumble())
    (staging_path(made.target) / ".convsvc" / "marks" / "write-0.json").unlink()
    heard = Recorder()
    result = run_plan(made.plan, engine, on_exists="resume", listener=heard)
    made.check_target()
    assert heard.phases[0] == ("write", 1)
    assert (result.tasks_done, result.tasks_skipped) == (1, 1)


def test_resuming_another_plans_run_is_refused_and_changes_nothing(made: Handmade, engine: Engine) -> None:
    Staging.open(made.plan, "error").close()
    other = made.with_plan(fingerprint="0" * 64)
    with pytest.raises(TargetExists, match="by another plan"):
        run_plan(other.plan, engine, on_exists="resume")
    run_plan(made.plan, engine, on_exists="resume")
    made.check_target()


def test_what_another_plan_left_behind_is_dropped_by_a_new_run(made: Handmade, engine: Engine) -> None:
    with Staging.open(made.with_plan(fingerprint="0" * 64).plan, "error") as left:
        (left.path / "stray").write_text("left")
    run_plan(made.plan, engine)
    made.check_target()


def test_two_runs_on_one_target_at_once_are_refused_and_the_first_goes_on(made: Handmade, engine: Engine) -> None:
    with Staging.open(made.plan, "error"):
        with pytest.raises(TargetBusy, match=f"process {os.getpid()} on") as caught:
            run_plan(made.plan, engine, on_exists="overwrite")
        assert caught.value.details["pid"] == os.getpid()
        assert staging_path(made.target).is_dir()


def test_a_target_that_is_there_is_kept_unless_overwriting_is_asked_for(made: Handmade, engine: Engine) -> None:
    made.target.mkdir(parents=True)
    (made.target / "latest.txt").write_text("old")
    for on_exists in ("error", "resume"):
        with pytest.raises(TargetExists):
            run_plan(made.plan, engine, on_exists=on_exists)
    assert (made.target / "latest.txt").read_text() == "old"
    run_plan(made.plan, engine, on_exists="overwrite")
    made.check_target()


def test_an_overwritten_target_stays_until_the_new_one_is_whole(made: Handmade, engine: Engine) -> None:
    made.target.mkdir(parents=True)
    (made.target / "latest.txt").write_text("old")
    os.truncate(made.source_files[0], 100)
    with pytest.raises(SourceChanged):
        run_plan(made.plan, engine, on_exists="overwrite")
    assert (made.target / "latest.txt").read_text() == "old"


def test_an_empty_directory_may_be_the_target(made: Handmade, engine: Engine) -> None:
    made.target.mkdir(parents=True)
    run_plan(made.plan, engine)
    made.check_target()


def test_the_source_is_as_it_was(made: Handmade, engine: Engine) -> None:
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in made.source_files]
    run_plan(made.plan, engine)
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in made.source_files]


@pytest.mark.parametrize("name", ["process", "ray"])
def test_a_run_on_other_engines_gives_the_same(name: str, made: Handmade) -> None:
    with closing(make_engine(name, workers=2)) as engine:
        run_plan(made.plan, engine, verify="roundtrip", reverse_tasks=reverse_of(made.plan))
    made.check_target()


def test_a_late_worker_of_a_removed_staging_directory_writes_nothing_into_the_new_one(made: Handmade) -> None:
    with Staging.open(made.plan, "error") as first:
        place = worker.Workplace(os.open(first.path, os.O_RDONLY), "late")
        task_file = worker.load_task(worker.read_task(place.directory, "write", 0))
        first.discard()
    with Staging.open(made.plan, "error") as second, pytest.raises(StorageError):
        worker.write_task(task_file, place)
    os.close(place.directory)
    tensor = made.plan.target_tensors[0]
    written = np.fromfile(second.path / "model.safetensors", np.uint8)[tensor.file_offset :]
    assert not written.any()


def test_a_tensor_that_no_task_writes_whole_is_not_published(made: Handmade, engine: Engine) -> None:
    short = made.with_plan(tasks=made.plan.tasks[:1])
    with pytest.raises(VerifyError, match="never written"):
        run_plan(short.plan, engine)
    assert not made.target.exists()


def test_calls_of_an_earlier_run_are_not_taken_for_this_runs(made: Handmade, engine: Engine) -> None:
    engine.submit(Call("stray", "sys:getrecursionlimit", {}, 10))
    run_plan(made.plan, engine)
    made.check_target()
