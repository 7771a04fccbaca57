"""The contract of engines, run over all of them."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from convsvc.engine import Call, Engine, Outcome, make_engine
from convsvc.engine.ray_slots import Slots
from convsvc.errors import JobError


@pytest.fixture(scope="module", autouse=True)
def importable_calls() -> Iterator[None]:
    """Makes `sample_calls` importable here and in workers."""
    folder = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        yield


@pytest.fixture(scope="module", params=["inline", "process", "ray"])
def engine(request: pytest.FixtureRequest, importable_calls: None) -> Iterator[Engine]:
    with closing(make_engine(request.param, workers=2)) as made:
        yield made


@pytest.fixture
def killable(engine: Engine) -> Engine:
    if engine.name == "inline":
        pytest.skip("a call in this very process cannot be killed")
    return engine


def call(name: str, *, id: str = "a", timeout_s: float = 60, **payload: object) -> Call:
    return Call(id, f"sample_calls:{name}", payload, timeout_s)


def outcomes(engine: Engine, count: int, within_s: float = 60) -> list[Outcome]:
    got: list[Outcome] = []
    until = time.monotonic() + within_s
    while len(got) < count and time.monotonic() < until:
        got += engine.wait(1.0)
    assert len(got) == count
    return got


def test_every_call_comes_back_once_with_its_value(engine: Engine) -> None:
    for number in range(10):
        engine.submit(call("double", id=str(number), number=number))
    values = {outcome.id: outcome.value["number"] for outcome in outcomes(engine, 10)}
    assert values == {str(number): number * 2 for number in range(10)}
    assert engine.wait(0.05) == []


def test_an_error_comes_back_as_json_and_its_worker_goes_on(engine: Engine) -> None:
    engine.submit(call("fill_the_disk", number=7))
    (outcome,) = outcomes(engine, 1)
    assert outcome.error is not None
    assert (outcome.error["type"], outcome.error["details"], outcome.lost) == ("NoSpace", {"needed": 7}, False)
    engine.submit(call("double", number=1))
    assert outcomes(engine, 1)[0].value["number"] == 2


def test_what_a_call_logs_comes_with_its_outcome(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "convsvc")  # for a call in this process; workers see to it themselves
    engine.submit(call("speak", number=7))
    (outcome,) = outcomes(engine, 1)
    assert (outcome.value, outcome.lost) == ("spoke", False)
    assert [(line["level"], line["message"]) for line in outcome.said] == [("info", "read 7"), ("warning", "slow")]
    assert abs(outcome.said[0]["at"] - time.time()) < 60


def test_an_unexpected_exception_says_where_it_came_from(engine: Engine) -> None:
    engine.submit(call("divide_by_zero", number=1))
    (outcome,) = outcomes(engine, 1)
    assert outcome.error is not None
    assert outcome.error["message"].startswith("ZeroDivisionError")
    assert "sample_calls.py" in outcome.error["details"]["traceback"]


def test_waiting_for_nothing_takes_as_long_as_was_asked(engine: Engine) -> None:
    began = time.monotonic()
    assert engine.wait(0.2) == []
    assert 0.15 < time.monotonic() - began < 10


def test_a_worker_that_dies_loses_its_call_only(killable: Engine) -> None:
    killable.submit(call("die", id="dying"))
    killable.submit(call("double", id="fine", number=3))
    got = {outcome.id: outcome for outcome in outcomes(killable, 2)}
    assert got["dying"].lost
    assert got["fine"].value["number"] == 6


def test_a_call_past_its_deadline_is_lost_and_its_worker_ended(killable: Engine, tmp_path: Path) -> None:
    paths = {"begun": str(tmp_path / "begun"), "ended": str(tmp_path / "ended")}
    killable.submit(call("rest", timeout_s=4, seconds=8, **paths))
    (outcome,) = outcomes(killable, 1)
    assert outcome.lost
    assert "4 s" in outcome.error["message"]
    assert (tmp_path / "begun").exists()
    time.sleep(5)
    assert not (tmp_path / "ended").exists()


def test_canceling_forgets_what_waits_and_ends_what_runs(killable: Engine, tmp_path: Path) -> None:
    for n in range(4):
        paths = {"begun": str(tmp_path / f"begun-{n}"), "ended": str(tmp_path / f"ended-{n}")}
        killable.submit(call("rest", id=str(n), seconds=30, **paths))
    until = time.monotonic() + 30
    while len(list(tmp_path.glob("begun-*"))) < 2 and time.monotonic() < until:
        killable.wait(0.1)
    killable.cancel_all(0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun-0", "begun-1"]
    killable.submit(call("double", id="after", number=4))
    assert [outcome.id for outcome in outcomes(killable, 1)] == ["after"]


def test_an_inline_call_runs_in_this_process() -> None:
    with closing(make_engine("inline")) as engine:
        engine.submit(call("double", number=1))
        assert outcomes(engine, 1)[0].value["pid"] == os.getpid()


def test_processes_do_not_run_the_callers_script_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('running')\n"
        "from convsvc.engine import Call, make_engine\n"
        "engine = make_engine('process', workers=1)\n"
        "engine.submit(Call('a', 'sample_calls:double', {'number': 21}, 30))\n"
        "print(engine.wait(30)[0].value['number'])\n"
        "engine.close()\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "running\n42\n"


def test_ray_leaves_no_token_file_and_no_directory_behind(tmp_path: Path) -> None:
    # Only what this process makes: others may run Ray meanwhile.
    script = (
        "import os, tempfile\n"
        "from convsvc.engine import make_engine\n"
        "make, made = tempfile.mkdtemp, []\n"
        "tempfile.mkdtemp = lambda *args, **named: made.append(make(*args, **named)) or made[-1]\n"
        "engine = make_engine('ray', workers=1)\n"
        "assert made and all(os.listdir(folder) for folder in made), made\n"
        "engine.close()\n"
        "print([folder for folder in made if os.path.exists(folder)])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert run.stdout.splitlines()[-1] == "[]"
    assert not (tmp_path / ".ray").exists()


def test_slots_follow_the_cluster_within_their_bound_and_keep_to_the_last_answer() -> None:
    cpus: queue.Queue[float] = queue.Queue()
    asked = threading.Semaphore(0)

    def ask() -> float:
        asked.release()
        cpus_now = cpus.get()
        if cpus_now < 0:
            raise RuntimeError("the head is away")
        return cpus_now

    cpus.put(2)
    slots = Slots(ask, 8, refresh_s=0.001)
    seen = [slots.count]
    assert asked.acquire(timeout=10)
    for now in (16, -1, 0, 3):
        assert asked.acquire(timeout=10)
        seen.append(slots.count)
        cpus.put(now)
    assert asked.acquire(timeout=10)
    seen.append(slots.count)
    cpus.put(3)
    slots.close()
    assert seen == [2, 2, 8, 8, 1, 3]


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    with pytest.raises(JobError, match="no engine 'slurm'") as caught:
        make_engine("slurm")
    assert "inline, process, ray" in str(caught.value)


@pytest.fixture(scope="module")
def on_ray(importable_calls: None) -> Iterator[Engine]:
    with closing(make_engine("ray", workers=2, autoscaling=True)) as made:
        yield made


def test_a_ray_task_asks_for_its_memory_and_never_for_more_than_a_machine_has(on_ray: Engine) -> None:
    for number, memory_bytes in enumerate((200 << 20, 1 << 50, 0)):
        on_ray.submit(Call(str(number), "sample_calls:resources", {}, 60, memory_bytes=memory_bytes))
    given = {outcome.id: outcome.value.get("memory", 0) for outcome in outcomes(on_ray, 3)}
    assert given["0"] == 200 << 20
    assert 200 << 20 < given["1"] < 1 << 50
    assert given["2"] == 0


def test_a_call_that_waits_in_ray_for_a_cpu_is_not_overdue(on_ray: Engine, tmp_path: Path) -> None:
    for number in range(2):
        on_ray.submit(call("rest", id=f"long-{number}", begun=str(tmp_path / "b"), ended=str(tmp_path / "e"), seconds=3.0))
    for number in range(2):
        on_ray.submit(call("double", id=f"behind-{number}", timeout_s=2, number=1))
    got = outcomes(on_ray, 4)
    assert [(outcome.id, outcome.error) for outcome in got if outcome.lost] == []
