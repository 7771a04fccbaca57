"""deploy/systemd/convsvc.service, without systemd."""

from __future__ import annotations

import configparser
from pathlib import Path

from convsvc.service.executor import supervisor

UNIT = Path(__file__).parents[2] / "deploy/systemd/convsvc.service"


def service() -> dict[str, list[str]]:
    """The section's keys: some come more than once."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in section.splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_it_is_a_unit() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNIT)
    assert unit.sections() == ["Unit", "Service", "Install"]


def test_only_the_main_process_is_told_to_end_and_it_has_the_time_to() -> None:
    """The default tells Ray and the workers as well, under an executor that puts its job back."""
    assert service()["KillMode"] == ["mixed"]
    assert int(service()["TimeoutStopSec"][0]) > supervisor.DRAIN_S + 5


def test_nobody_else_reads_the_job_store() -> None:
    assert (service()["StateDirectory"], service()["StateDirectoryMode"]) == (["convsvc"], ["0700"])


def test_a_directory_for_checkpoints_that_is_not_there_yet_does_not_keep_it_from_starting() -> None:
    (writable,) = service()["ReadWritePaths"]
    assert writable.startswith("-/")
    assert f"install --directory --owner=convsvc --group=convsvc {writable[1:]}" in UNIT.read_text()


def test_a_worker_that_takes_too_much_memory_does_not_end_the_service() -> None:
    assert service()["OOMPolicy"] == ["continue"]
