"""Only a run that would write the same bytes to the same places goes on with what another has left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import run
from convsvc.engine.inline import InlineEngine
from convsvc.engine.listener import Listener
from convsvc.errors import TargetExists
from convsvc.plan import fingerprint, planner
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from convsvc.plan.records import Transfer
from tests.tiny_checkpoints import write_llama


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    source, target = str(write_llama(tmp_path / "hf")), str(tmp_path / "out")
    options = {"num_layers": 2}  # so that config.json is written anew
    return {
        "source": {"format": "huggingface", "path": source},
        "target": {"format": "huggingface", "path": target, "config_dir": source},
        "options": options,
    }


def exchanged(transfer: Transfer) -> Transfer:
    """Reads with their boxes in another order: what an older version's fault may have been."""
    if "linear_fc1" not in transfer.name:
        return transfer
    first, second = transfer.reads
    swapped = first._replace(places=second.places), second._replace(places=first.places)
    return Transfer(transfer.name, transfer.sizes, transfer.order, swapped, transfer.writes)


def test_the_same_job_has_the_same_fingerprint_and_what_is_not_written_does_not_count(job: dict[str, Any]) -> None:
    first = make_plan(job).fingerprint
    assert make_plan(job).fingerprint == first
    for change in ({"verify": "none"}, {"on_exists": "resume"}, {"on_loss": "note"}, {"check_copies": "none"}):
        assert make_plan({**job, "options": {**job["options"], **change}}).fingerprint == first


def other_numbers(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    make = planner.make_transfers
    monkeypatch.setattr(planner, "make_transfers", lambda *args: [(unit, exchanged(each)) for unit, each in make(*args)])


def other_version(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    monkeypatch.setattr(fingerprint, "version", lambda name: "0.0.1")


def other_words(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    config = Path(job["target"]["config_dir"]) / "config.json"
    config.write_text(config.read_text().replace("{", '{"rope_theta": 5e5, ', 1))


def other_side_file(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    (Path(job["target"]["config_dir"]) / "tokenizer.json").write_text("{}")


def other_offset(monkeypatch: pytest.MonkeyPatch, job: dict[str, Any]) -> None:
    plan_sources = planner.plan_sources
    monkeypatch.setattr(
        planner, "plan_sources", lambda located: tuple(each._replace(file_offset=each.file_offset + 2) for each in plan_sources(located))
    )


CHANGES = [other_numbers, other_version, other_words, other_side_file, other_offset]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_what_is_written_changes_the_fingerprint(
    change: Callable[[pytest.MonkeyPatch, dict[str, Any]], None], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_plan(job).fingerprint
    change(monkeypatch, job)
    assert make_plan(job).fingerprint != before


def test_a_side_file_that_has_changed_since_is_another_plan(job: dict[str, Any]) -> None:
    tokenizer = Path(job["target"]["config_dir"]) / "tokenizer.json"
    tokenizer.write_text("{}")
    before = make_plan(job).fingerprint
    os.utime(tokenizer, ns=(1, 1))
    assert make_plan(job).fingerprint != before


class Dying(Listener):
    """Ends the run once everything is written."""

    def phase(self, name: str, total: int) -> None:
        if name == "seal":
            raise RuntimeError("died")


def test_a_run_of_another_version_does_not_go_on_with_what_is_there(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def plan() -> Plan:
        return make_plan(job)

    with monkeypatch.context() as old:
        other_numbers(old, job)
        with pytest.raises(RuntimeError):
            run(plan(), InlineEngine(), listener=Dying())
    with pytest.raises(TargetExists, match="by another plan"):
        run(plan(), InlineEngine(), on_exists="resume")
