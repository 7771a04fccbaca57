"""Hostile input for every reader, as `python -m tests.security.fuzz` draws by the million, and proof that the fuzzer sees faults."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import FormatError
from tests.security.fuzz import run
from tests.security.fuzz.readers import Reader

ROOT = Path(__file__).parents[2]
# The same inputs at every run: more of them, and others, are for `python -m tests.security.fuzz`.
INPUTS, SEED = 15_000, 7
GROWTH_MIB = 128


def test_no_input_breaks_a_reader_or_costs_much() -> None:
    """A process of its own, so that its memory can be bounded: allocating over 1 GiB would be a crash, as a hang is."""
    command = [sys.executable, "-m", "tests.security.fuzz", "--inputs", str(INPUTS), "--seed", str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) inputs, 0 crashes in 0 places, .* peak RSS (\d+) MiB, (\d+) MiB before", done.stdout)
    assert found, done.stdout
    inputs, peak, before = map(int, found.groups())
    assert abs(inputs - INPUTS) < 20
    assert peak - before < GROWTH_MIB


def test_every_reader_reads_something_and_refuses_something() -> None:
    """A fuzzer whose every input is refused at the door looks at nothing."""
    command = [sys.executable, "-m", "tests.security.fuzz", "--inputs", "3000", "--seed", "8"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
    readers = re.split(r"^(?=\S.*: \d+ inputs)", text, flags=re.MULTILINE)[1:]
    assert len(readers) == 10
    for report in readers:
        name = report.partition(":")[0]
        assert "Error" in report, report
        assert "accepted" in report or name == "tracker", report


def reports(feed: Callable[[Any], None], inputs: int = 3) -> run.Report:
    return run.fuzz([Reader("one", 1, lambda rng: rng.randrange(10), feed)], inputs, seed=1)


def test_an_error_that_is_none_of_ours_is_a_crash() -> None:
    report = reports(lambda given: [][given])
    assert [crash.where.split()[0] for crash in report.crashes.values()] == ["IndexError"]
    assert report.outcomes["one"].counts == {"CRASH IndexError": 3}


def test_an_error_of_ours_is_an_answer() -> None:
    def refuse(given: Any) -> None:
        raise FormatError("no")

    report = reports(refuse)
    assert not report.crashes
    assert report.outcomes["one"].counts == {"FormatError": 3}


def test_a_hang_is_a_crash_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(given: Any) -> None:
        while True:
            pass

    monkeypatch.setattr(run, "INPUT_LIMIT_S", 0.05)
    assert reports(hang, 1).outcomes["one"].counts == {"CRASH Hang": 1}


def test_the_same_seed_draws_the_same_inputs() -> None:
    drawn: list[list[int]] = [[], []]
    for seen in drawn:
        run.fuzz([Reader("one", 1, lambda rng: rng.randrange(1000), seen.append)], 20, seed=5)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 10
