"""A directory is tried as a conversion uses it, from several machines; what would spoil a conversion is found, and nothing stays."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convsvc import __version__
from convsvc.cli.main import main
from convsvc.engine.base import Call, Outcome
from convsvc.engine.inline import InlineEngine
from convsvc.engine.process import ProcessEngine
from convsvc.engine.storage_check import HALF, OURS, THEIRS, answer, check_storage
from convsvc.errors import TargetError
from convsvc.execute.disk import trials
from convsvc.execute.disk.trials import BAD, MISSING, OK, PAGE, SLOWER, try_all


class Spoiling(InlineEngine):
    """A machine whose file system does something to the directory when a call has ended, as a cache that is written back does."""

    def __init__(self, spoil: Callable[[Path], None]) -> None:
        super().__init__()
        self._spoil, self._workshop = spoil, Path()

    def submit(self, call: Call) -> None:
        self._workshop = Path(call.payload["workshop"])
        super().submit(call)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes = super().wait(timeout_s)
        if outcomes:
            self._spoil(self._workshop)
        return outcomes


def results(findings: Any) -> dict[str, str]:
    return {finding.trial: finding.result for finding in findings}


def test_a_local_directory_does_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    with closing(ProcessEngine(1)) as engine:
        here, there = check_storage(tmp_path, engine, speed_bytes=4 << 20)
    assert here.is_good
    assert there.is_good
    found = results(there.findings)
    assert found["lock between machines"] == found["shared page"] == found["same directory"] == found["rename"] == OK
    assert list(tmp_path.iterdir()) == []


def test_a_page_whose_other_half_is_undone_is_bad(tmp_path: Path) -> None:
    def undo(workshop: Path) -> None:
        (workshop / "page").write_bytes(OURS + bytes(HALF))

    with closing(Spoiling(undo)) as engine:
        _, there = check_storage(tmp_path, engine, speed_bytes=0)
    assert results(there.findings)["shared page"] == BAD
    assert not there.is_good


def payload(workshop: Path, **more: Any) -> dict[str, Any]:
    (workshop / "mark").write_text("m")
    (workshop / "page").write_bytes(bytes(PAGE))
    return {"workshop": str(workshop), "step": "try", "name": "n", "mark": "m", "speed_bytes": 0, "version": __version__, **more}


def told(workshop: Path, **more: Any) -> dict[str, str]:
    return {finding["trial"]: finding["result"] for finding in answer(payload(workshop, **more))["findings"]}


def test_a_machine_that_sees_another_directory_is_bad_and_is_tried_no_further(tmp_path: Path) -> None:
    assert told(tmp_path, mark="another") == {"same directory": BAD}


def test_a_machine_of_another_version_is_bad(tmp_path: Path) -> None:
    assert told(tmp_path, version="0.0.0")["version"] == BAD


def test_a_lock_that_two_machines_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    assert told(tmp_path)["lock between machines"] == MISSING
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert told(tmp_path, name="again")["lock between machines"] == OK
    assert (tmp_path / "page").read_bytes() == bytes(HALF) + THEIRS


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    def refuse(name: str, code: int) -> None:
        def raises(*_: Any) -> None:
            raise OSError(code, "refused")

        monkeypatch.setattr(trials.fcntl, name, raises)

    return refuse


def test_a_file_system_without_locks_is_gone_without_and_one_that_fails_is_bad(tmp_path: Path, refused: Callable[[str, int], None]) -> None:
    refused("flock", trials.errno.ENOSYS)
    refused("fcntl", trials.errno.EIO)
    found = results(try_all(tmp_path, 0))
    assert (found["flock"], found["fcntl lock"]) == (MISSING, BAD)


def test_files_of_another_user_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.os, "geteuid", lambda: 4711)
    assert results(try_all(tmp_path, 0))["owner"] == SLOWER


def test_the_command_says_all_as_json_and_exits_as_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-storage", str(tmp_path), "--size-mib", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["good"] is True
    assert [machine["good"] for machine in told["machines"]] == [True, True]
    assert "MB/s" in str(told["machines"][0]["findings"])


def test_a_directory_in_which_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    with closing(InlineEngine()) as engine, pytest.raises(TargetError, match=f"nothing can be made in {tmp_path}/none"):
        check_storage(tmp_path / "none", engine)
