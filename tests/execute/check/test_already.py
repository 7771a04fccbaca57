"""`on_exists: reuse`: a target that is what the job writes answers at once, and only that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.engine import driver
from convsvc.errors import TargetExists
from convsvc.execute.staging.obstacles import find_obstacles
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama


def job(source: Path, target: Path, **target_more: Any) -> dict[str, Any]:
    return {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), **target_more},
        "options": {"on_exists": "reuse"},
    }


def run(wanted: dict[str, Any]) -> Any:
    return convert(wanted, engine="inline")


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    wanted = job(write_llama(tmp_path / "hf", layers=1), tmp_path / "out")
    first = run(wanted)
    assert not first.already_done
    assert "already_done" not in first.as_dict()
    return wanted


def test_what_the_same_job_made_answers_at_once_and_nothing_is_written(made: dict[str, Any]) -> None:
    target = Path(made["target"]["path"])
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    again = run(made)
    assert again.already_done
    assert (again.bytes_written, again.as_dict()["already_done"]) == (0, True)
    assert again.report == str(target.with_name("out.conversion-report.json"))
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert find_obstacles(make_plan(made)) == []


def test_how_it_is_verified_makes_no_other_target_of_it_but_another_layout_or_dtype_does(made: dict[str, Any]) -> None:
    assert run({**made, "name": "again", "options": {"on_exists": "reuse", "verify": "full"}}).already_done
    with pytest.raises(TargetExists, match="asked for something else"):
        run({**made, "target": {**made["target"], "tensor_parallel_size": 2}})
    with pytest.raises(TargetExists, match="asked for something else"):
        run({**made, "options": {"on_exists": "reuse", "dtype": "fp32"}})


def test_what_somebody_else_made_of_it_meanwhile_is_taken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = job(write_llama(tmp_path / "hf", layers=1), tmp_path / "out")
    plain = driver.run_plan

    def late(plan: Any, engine: Any, **more: Any) -> Any:
        monkeypatch.setattr(driver, "run_plan", plain)
        run(wanted)
        return plain(plan, engine, **more)

    monkeypatch.setattr(driver, "run_plan", late)
    assert run(wanted).already_done


def test_a_target_of_another_version_of_convsvc_is_known_by_its_source_and_its_words(made: dict[str, Any]) -> None:
    rewrite(Path(made["target"]["path"]), lambda manifest: manifest | {"plan": "0" * 64})
    assert run(made).already_done
    assert run({**made, "options": {"on_exists": "reuse", "verify": "full"}}).already_done


def test_a_source_that_changed_is_not_what_the_target_was_made_of(made: dict[str, Any]) -> None:
    os.utime(Path(made["source"]["path"]) / "model.safetensors")
    with pytest.raises(TargetExists, match="another source, or of this one before it changed"):
        run(made)


def cut_short(target: Path) -> None:
    file = next(target.rglob("*.pt"))
    os.truncate(file, file.stat().st_size - 1)


def with_another_header(target: Path) -> None:
    file = next(target.rglob("*.pt"))
    file.write_bytes(b"\0" * file.stat().st_size)


def with_another_tracker(target: Path) -> None:
    (target / "latest_checkpointed_iteration.txt").write_text("9")


@pytest.mark.parametrize("damage", [cut_short, with_another_header, with_another_tracker])
def test_a_target_that_is_not_whole_any_more_is_an_error(made: dict[str, Any], damage: Callable[[Path], None]) -> None:
    damage(Path(made["target"]["path"]))
    with pytest.raises(TargetExists, match="is not what it writes now"):
        run(made)


def test_a_side_file_that_was_changed_is_seen_though_everything_opens(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf", layers=1)
    (source / "tokenizer_config.json").write_text('{"a": 1}')
    wanted = job(source, tmp_path / "out")
    wanted["target"]["format"] = "huggingface"
    run(wanted)
    (tmp_path / "out" / "tokenizer_config.json").write_text('{"a": 2}')
    with pytest.raises(TargetExists, match="is not what it writes now"):
        run(wanted)


def test_without_a_list_or_a_report_of_its_run_nobody_knows_what_a_target_is(made: dict[str, Any]) -> None:
    target = Path(made["target"]["path"])
    report = target.with_name("out.conversion-report.json")
    report.write_text(json.dumps(json.loads(report.read_text()) | {"run": "another"}))
    with pytest.raises(TargetExists, match="no report of the conversion that made it"):
        run(made)
    (target / ".convsvc-made.json").unlink()
    with pytest.raises(TargetExists, match="no list of what was made"):
        run(made)
    assert [type(error) for error in find_obstacles(make_plan(made))] == [TargetExists]


def test_an_empty_directory_is_filled_and_a_file_is_an_error(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf", layers=1)
    (tmp_path / "empty").mkdir()
    assert not run(job(source, tmp_path / "empty")).already_done
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TargetExists, match="it is a file"):
        run(job(source, tmp_path / "file"))


def rewrite(target: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from convsvc.execute.staging.manifest import Manifest

    place = target / ".convsvc-made.json"
    said = change(json.loads(place.read_text()))
    files = {name: tuple(value) for name, value in said["files"].items()}
    place.write_text(Manifest(said["run"], said["convsvc"], said["plan"], files).dump())
