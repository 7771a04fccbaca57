"""However a conversion runs, it writes what the source tool wrote: golden cases in every mode.

Some of them, of each kind; with `--every-mode`, all. (The tests of the drop-in have every case in one of the ways of moving bytes.)
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.convert_ckpt_v2 import job_of
from convsvc.conversion import run
from convsvc.engine import make_engine
from convsvc.engine.listener import Listener
from convsvc.plan import tasks
from convsvc.plan.planner import make_plan
from tests.golden.corpus import Case, cases, command_line, fixture, manifest, write_huggingface
from tests.golden.megatron_inputs import write_megatron
from tests.golden.modes import WAYS, use_way
from tests.golden.outputs import differences, expected_huggingface, expected_megatron, read_huggingface, read_megatron

# A dense model, stacked experts, latent attention; both ways.
FAMILIES = ("qwen3", "qwen3-moe", "deepseek3")
DIRECTIONS = ("hf2mg", "mg2hf", "mg2mg")
MODES = (*WAYS[1:], "two workers", "resumed")


def exact_cases() -> list[Case]:
    return [case for case in cases() if case.trust == "exact" and case.direction in DIRECTIONS]


def chosen() -> list[Case]:
    """Of each family the case with the most ranks, in each direction."""
    found = []
    for family in FAMILIES:
        for direction in ("hf2mg", "mg2hf"):
            alike = [case for case in exact_cases() if (case.family, case.direction) == (family, direction)]
            plain = [case for case in alike if "lora" not in case.id]
            found.append(max(plain, key=lambda case: (len(manifest(case.input.get("manifest_of", case.id))["ranks"]), case.id)))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        wanted = exact_cases() if metafunc.config.getoption("--every-mode") else chosen()
        metafunc.parametrize("case", [pytest.param(case, id=case.id) for case in wanted])


class Interrupted(Exception):
    """The run ends here."""


class StopsAfter(Listener):
    """Ends the run after so many tasks, as a crash would."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise Interrupted


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of some kilobytes are cut into tasks as large ones are."""
    monkeypatch.setattr(tasks, "MOST_BYTES", 64 << 10)
    monkeypatch.setattr(tasks, "FEW_BYTES", 8 << 10)


def job_for(case: Case, tmp_path: Path) -> dict[str, Any]:
    """The case's job, with its input written."""
    huggingface, megatron, lora = tmp_path / "hf", tmp_path / "mg", tmp_path / "lora"
    source = huggingface
    if "manifest_of" not in case.input or case.args.get("hf-cfg-dir") == "<HF>":
        write_huggingface(fixture(case.fixture), huggingface)
    if "manifest_of" in case.input:
        write_megatron(manifest(case.input["manifest_of"]), case.input, megatron, lora)
        source = megatron
    load, save = case.direction.split("2")
    given = {"load-model-type": load, "save-model-type": save, "load-dir": source, "save-dir": tmp_path / "out"}
    given |= {"model-type-hf": case.family_flag, **case.args}
    return job_of(command_line(given, {"<HF>": huggingface, "<LORA>": lora}))


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_writes_what_the_source_tool_writes(case: Case, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for(case, tmp_path)
    use_way(mode, monkeypatch)
    plan = make_plan(job)
    assert len(plan.tasks) > 1
    with closing(make_engine("process", workers=2) if mode == "two workers" else make_engine("inline")) as engine:
        if mode == "resumed":
            with pytest.raises(Interrupted):
                run(plan, engine, listener=StopsAfter(len(plan.tasks) // 2))
        result = run(plan, engine, on_exists="resume" if mode == "resumed" else None)
    assert (result.tasks_skipped > 0) == (mode == "resumed")
    out = tmp_path / "out"
    if case.direction == "mg2hf":
        assert not differences(expected_huggingface(manifest(case.id)), read_huggingface(out))
    else:
        assert not differences(expected_megatron(manifest(case.id)).tensors, read_megatron(out).tensors)
