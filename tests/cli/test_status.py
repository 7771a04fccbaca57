"""How a job is told to a person: `status`, the rows of `jobs`, times, completion, Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import click
import pytest

from convsvc.cli import connection, human
from convsvc.cli.completing import complete_job
from convsvc.cli.human import between, duration, moment, time_of
from convsvc.cli.main import INTERRUPTED, main
from convsvc.service.views import AttemptView, JobPage, JobView, Progress, TaskView, Waiting

NOW = datetime(2024, 5, 31, 12, tzinfo=timezone.utc)
ID = "1k1b5kfhg62g1wrn20jb9whc8p"
JOB = JobView(
    ID, "nightly", "qwen3", "running", 2, "/in", "/shared/out", False, NOW - timedelta(hours=3), NOW - timedelta(hours=1), None,
    progress=Progress(
        "write", 7, 14, 700 << 20, 1400 << 20, bytes_running=70 << 20, rate_bytes_s=float(10 << 20), eta_s=63.0,
        eta_basis="bytes left of write", told_at=NOW,
    ),
    executor="node-1:77", tenant="team-a", submitted_by="ci", priority=3, queued_at=NOW - timedelta(hours=3), labels={"model": "qwen3"},
    spec={
        "source": {"format": "huggingface", "path": "/in"},
        "target": {"format": "mindspeed-llm", "path": "/o", "tensor_parallel_size": 2},
    },
    plan={"source": {"files": 3, "tensors": 40, "bytes_read": 1400 << 20}, "target": {"files": 2, "bytes": 1400 << 20}},
)  # fmt: skip
TASKS = [TaskView(7, "layer 7", "running", 2, 100 << 20, None, "node-2/5", None, NOW - timedelta(seconds=90), None)]
ATTEMPTS = [
    AttemptView(2, 7, 1, "ray-node-9-4711", NOW - timedelta(minutes=5), NOW - timedelta(minutes=4), "failed", {"message": "disk gone"})
]


class Told:
    """Stands in for the client: answers what it was made with, and notes what was asked."""

    def __init__(self, job: JobView, tasks: list[TaskView] | None = None, attempts: list[AttemptView] | None = None) -> None:
        self.view, self.listed, self.bad, self.asked = job, tasks or [], attempts or [], dict[str, Any]()

    def job(self, job_id: str) -> JobView:
        return self.view

    def jobs(self, **wanted: Any) -> JobPage:
        self.asked = wanted
        return JobPage([self.view, replace(self.view, id=ID[:-1] + "q", state="queued", started_at=None, labels={})])

    def tasks(self, job_id: str, **wanted: Any) -> list[TaskView]:
        self.asked = wanted
        return self.listed

    def task_counts(self, job_id: str) -> dict[str, int]:
        return {"done": 7, "running": 1, "pending": 6}

    def attempts(self, job_id: str, **wanted: Any) -> list[AttemptView]:
        return self.bad

    def events(self, job_id: str, **wanted: Any) -> Any:
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _a_still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human, "now", lambda: NOW)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    def make(*given: Any) -> Told:
        client = Told(*given)

        @contextmanager
        def connect(service: Any) -> Iterator[Told]:
            yield client

        monkeypatch.setattr(connection, "connect", connect)
        return client

    return make


def test_a_job_that_runs_is_told_with_times_progress_failures_and_what_is_next(
    told: Callable[..., Told], capsys: pytest.CaptureFixture[str]
) -> None:
    client = told(JOB, TASKS, ATTEMPTS)
    assert main(["status", ID]) == 0
    rows = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines() if line[:14].strip()}
    assert rows["State"] == "running (write)"
    assert rows["Target"] == "/shared/out  (mindspeed-llm, tensor_parallel_size 2)"
    assert rows["Tenant"] == "team-a, submitted by ci, priority 3"
    assert rows["Submitted"].endswith("UTC (3h ago)")
    assert rows["Started"].endswith("UTC (1h ago), after 2h in the queue")
    assert rows["Written"] == "7 of 14 tasks, 770.0 MiB of 1.4 GiB (55 %), 10.0 MiB/s"
    assert rows["Time left"] == "1m3s: bytes left of write"
    assert rows["Tasks"] == "7 done, 1 running, 6 pending"
    assert rows["Next"].startswith(f"convsvc watch {ID}")
    assert client.asked == {"states": ("running", "failed"), "after": -1, "limit": 10}


def test_attempts_that_failed_say_where_and_why(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    told(JOB, TASKS, ATTEMPTS)
    main(["status", ID])
    row = next(line for line in capsys.readouterr().out.splitlines() if "ray-node-9-4711" in line)
    assert row.split()[:4] == ["2", "7", "1", "ray-node-9-4711"]
    assert row.endswith("failed   disk gone")


def test_tasks_are_listed_a_page_at_a_time_and_by_state(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    client = told(JOB, TASKS)
    assert main(["status", ID, "--task-state", "failed", "--limit", "1", "--after", "3"]) == 0
    assert client.asked == {"states": ("failed",), "after": 3, "limit": 1}
    assert f"convsvc status {ID} --tasks --after 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "row", "starts"),
    [
        ({"state": "failed", "ended_at": NOW, "staged": True}, "Next", f"convsvc retry {ID} goes on with what is staged; convsvc cancel"),
        ({"state": "failed", "ended_at": NOW, "staged": True}, "Staging", ".out.convsvc beside the target"),
        ({"state": "canceled", "ended_at": NOW}, "Next", f"convsvc retry {ID} begins anew"),
        ({"state": "succeeded", "ended_at": NOW}, "Next", "the target is /shared/out"),
        (
            {"state": "queued", "waiting": Waiting("no-executor", "no executor is alive", NOW - timedelta(hours=2))},
            "Waiting",
            "no executor is alive (for 2h)",
        ),
        ({"state": "queued", "waiting": Waiting("no-executor", "no executor is alive")}, "Next", "start an executor"),
    ],
)
def test_each_state_says_what_can_be_done(
    changes: dict[str, Any], row: str, starts: str, told: Callable[..., Told], capsys: pytest.CaptureFixture[str]
) -> None:
    told(replace(JOB, **changes))
    main(["status", ID])
    rows = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert rows[row].startswith(starts)


def test_a_name_from_elsewhere_makes_no_rows_of_its_own(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    told(replace(JOB, name="x\nState         succeeded\x1b]0;owned\x07"))
    main(["status", ID])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nState         succeeded" not in out


def test_jobs_are_listed_with_age_duration_progress_and_labels(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    client = told(replace(JOB, name="a-name-that-is-longer-than-any-column"))
    assert main(["jobs", "--since", "2d", "--label", "model=qwen3", "--label", "run", "--sort", "duration", "--reverse"]) == 0
    head, queued, running = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "STATE", "PROGRESS", "AGE", "DURATION", "TENANT", "MODEL", "NAME", "LABELS", "TARGET"]
    assert running.split()[1:5] == ["running", "7/14", "55%", "3h"]
    assert "a-name-that-is-longer..." in running
    assert queued.split()[1] == "queued"
    assert client.asked["labels"] == {"model": "qwen3", "run": None}
    assert client.asked["since"] == NOW - timedelta(days=2)


def test_ctrl_c_says_that_the_job_goes_on_and_how_to_come_back(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    told(JOB)
    assert main(["watch", ID[:10]]) == INTERRUPTED
    err = capsys.readouterr().err
    assert f"job {ID} goes on" in err
    assert f"convsvc watch {ID}" in err
    assert f"convsvc cancel {ID}" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (3.04, "3s"), (65, "1m5s"), (3600, "1h"), (86_400 * 3 + 3600 * 4, "3d4h"), (-5, "0s")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_so_long_ago_or_iso() -> None:
    assert time_of("2024-05-31T12:00:00+02:00") == datetime(2024, 5, 31, 10, tzinfo=timezone.utc)
    assert time_of("90m") < time_of("1h")
    for wrong in ("yesterday", "5", "1y", ""):
        with pytest.raises(ValueError, match=r"Invalid isoformat"):
            time_of(wrong)
    assert (between(None), moment(None)) == ("-", "-")


def test_a_wrong_time_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--since", "yesterday"]) == 2
    assert "'yesterday' is no time; write 90m" in capsys.readouterr().err


def test_job_ids_complete_and_a_service_that_is_away_completes_nothing(
    service_url: str, job_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", job_file, "--url", service_url]) == 0
    job_id = capsys.readouterr().out.strip()
    context = click.Context(click.Command("status"))
    context.params["url"] = service_url
    parameter = click.Argument(["job_id"])
    assert [item.value for item in complete_job(context, parameter, job_id[:5].upper())] == [job_id]
    assert complete_job(context, parameter, "zzz") == []
    context.params["url"] = "http://127.0.0.1:9"
    assert complete_job(context, parameter, "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_CONVSVC_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_one_of_something_is_one_and_a_check_says_what_it_is(told: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"source": {"files": 1, "tensors": 1, "bytes_read": 10}, "target": {"files": 1, "bytes": 10}}
    one = replace(JOB.progress, tasks_done=1, tasks_total=1)
    told(replace(JOB, plan=plan, progress=one))
    assert main(["status", ID]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 task," in shown
    assert "1 file, 1 tensor, 10 B to read; 1 file, 10 B to write" in shown

    looking = replace(one, phase="compare", tasks_done=0, tasks_total=0, phase_tasks_done=1, phase_tasks_total=3)
    told(replace(JOB, mode="verify", state="verifying", plan=plan, progress=looking))
    assert main(["status", ID]) == 0
    shown = capsys.readouterr().out
    assert f"{ID}, to verify: it writes nothing" in shown
    assert "1 of 3 parts" in shown
    assert "1 file, 10 B to compare" in shown
    assert main(["jobs"]) == 0
    assert "1/3 compare" in capsys.readouterr().out
