"""Progress as plain lines, from the driver's calls and from the service's events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from convsvc.cli import human
from convsvc.cli.progress import Bar, Lines, ShownRun, Step, make_display
from convsvc.cli.watch import ended_well, show_event
from convsvc.errors import Canceled, PlanError, ServiceError
from convsvc.service.views import EventView, JobView


def event(kind: str, **data: Any) -> EventView:
    return EventView(1, datetime.now(timezone.utc), kind, data)


def job(state: str, error: dict[str, Any] | None = None) -> JobView:
    now = datetime.now(timezone.utc)
    return JobView("j1", None, None, state, 1, "/in", "/out", False, now, now, now, error=error)


@dataclass
class Recorder(Lines):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_here_is_told_in_phases() -> None:
    shown = Recorder()
    run = ShownRun(shown)
    run.phase("write", 2)
    run.task_done(0, {"bytes_written": 1024})
    run.task_failed(1, {"message": "disk gone"}, will_retry=True, worker="process-7")
    run.task_done(1, {"bytes_written": 1024})
    assert shown.lines == ["write, 2 tasks", "task 1 on process-7: disk gone; trying again", "write 2/2 tasks, 2.0 KiB"]


def test_a_job_on_the_service_is_told_from_its_events() -> None:
    shown = Recorder()
    show_event(shown, event("planned", model_type="qwen3", tasks=1, bytes=10))
    show_event(shown, event("phase", phase="write", total=1))
    show_event(shown, event("task", number=0, name="layer 0", state="done", tasks_done=1, tasks_total=1, bytes_done=10))
    show_event(shown, event("state", state="succeeded", before="verifying"))
    assert shown.lines == ["planned: qwen3, 1 task", "write, 1 task", "write 1/1 task, 10 B", "succeeded"]


def test_a_job_that_waits_says_why_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, now = Recorder(), datetime(2024, 5, 31, 12, tzinfo=timezone.utc)
    monkeypatch.setattr(human, "now", lambda: now)
    since = (now - timedelta(minutes=5, seconds=3)).isoformat()
    show_event(shown, event("waits", reason="no-executor", text="no executor is alive", since=since, position=1))
    show_event(shown, event("waits"))
    assert shown.lines == ["waiting: no executor is alive (for 5m3s)"]


def test_bytes_move_while_a_task_runs_with_rate_and_what_is_left() -> None:
    shown = Recorder()
    show_event(shown, event("phase", phase="write", total=4))
    shown.last -= 10
    progress = {"phase": "write", "tasks_done": 1, "tasks_total": 4, "bytes_done": 1 << 20, "bytes_running": 1 << 20}
    show_event(shown, event("progress", **progress, bytes_total=8 << 20, rate_bytes_s=float(1 << 20), eta_s=6.0))
    assert shown.lines[-1] == "write 1/4 tasks, 2.0 MiB of 8.0 MiB, 1.0 MiB/s, 6s left"


@pytest.mark.parametrize("well", [True, False])
def test_no_bar_shows_more_than_was_done(well: bool, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar.phase("write", 14)
    bar.advance(Step(7, 14, 700, 1400))
    bar.advance(Step(7, 14, 1400, 1400))
    bar.close(well=well)
    [write] = bar.bars.tasks
    assert (write.fields["tasks"], write.finished) == ("7/14", False)
    assert write.completed < 14
    capsys.readouterr()


def test_a_phase_without_tasks_is_full_only_once_it_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    stopped, ended = Bar(), Bar()
    for bar, well in ((stopped, False), (ended, True)):
        bar.phase("seal", 0)
        bar.close(well=well)
    assert [bar.bars.tasks[0].finished for bar in (stopped, ended)] == [False, True]
    capsys.readouterr()


def test_a_run_here_tells_of_bytes_that_tasks_have_moved_so_far() -> None:
    shown = Recorder()
    run = ShownRun(shown)
    run._sizes = {0: 1024, 1: 1024}
    run.phase("write", 2)
    shown.last -= 10
    run.tasks_moved({0: 4096})  # a worker that says more than the task has is not believed
    assert shown.lines[-1].startswith("write 0/2 tasks, 1.0 KiB of 2.0 KiB")


def test_without_a_terminal_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_display()
    assert isinstance(display, Lines)
    display.phase("write", 3)
    assert capsys.readouterr().err == "write, 3 tasks\n"


def test_a_bar_takes_the_same_calls(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar.advance(Step(1, 2, 10))
    bar.phase("seal", 0)
    bar.line("[not markup]")
    bar.close(well=True)
    assert "[not markup]" in capsys.readouterr().err


def test_a_job_that_failed_raises_the_error_it_failed_with() -> None:
    with pytest.raises(PlanError, match="no cover"):
        ended_well(job("failed", PlanError("no cover").as_dict()))


@pytest.mark.parametrize(("state", "kind"), [("canceled", Canceled), ("running", ServiceError)])
def test_a_job_that_did_not_succeed_is_an_error(state: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="j1"):
        ended_well(job(state))
