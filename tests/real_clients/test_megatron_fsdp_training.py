"""Training that began without Megatron-FSDP goes on with it, and then without it again, with the losses of an undisturbed run.

Every checkpoint between is one that we made of what Megatron saved, optimizer and all: torch_dist -> fsdp_dtensor -> torch_dist.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from tests.real_clients.ranks import run_world
from tests.real_clients.test_megatron_dist import LLAMA, PARTLY_DENSE
from tests.real_clients.test_megatron_training import RANK_PROGRAM, STEPS, TOLERANCE, WORLD, job_of
from tests.real_clients.tiny_models import Tiny, save_random

pytestmark = pytest.mark.real_client

FSDP_PROGRAM = Path(__file__).with_name("megatron_fsdp_train_rank.py")
AFTER, AGAIN = 2, 4
EVERYTHING = {"state": "training"}


@dataclass(frozen=True, slots=True)
class Trial:
    """A model, its layouts before Megatron-FSDP and after it, and how the latter's checkpoint is written."""

    name: str
    tiny: Tiny
    before: dict[str, int]
    after: dict[str, int]
    target: dict[str, Any]


TRIALS = (
    Trial("dense-tp2-fsdp-pp2", LLAMA, {"tp": 2}, {"pp": 2}, {"chunk_size": "1KiB"}),
    # Experts that are spread have an optimizer of their own before, and are the modules that compute without Transformer Engine.
    Trial("experts-ep2-fsdp-dp2", PARTLY_DENSE, {"ep": 2}, {}, {"moe_grouped_gemm": False}),
)


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By trial, of every rank's: the undisturbed run, Megatron-FSDP's from AFTER on, and what goes on from AGAIN on."""
    pytest.importorskip("megatron.core", reason="pip install megatron-core==0.16.1", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("fsdp-training")

    def at(trial: Trial, what: str) -> Path:
        return folder / f"{trial.name}-{what}"

    for trial in TRIALS:
        save_random(trial.tiny, at(trial, "hf"), dtype=torch.float32, tied=False)
        convert(job_of({"format": "huggingface", "path": str(at(trial, "hf"))}, at(trial, "start")), engine="inline")
    begun = [
        {
            "name": trial.name, "checkpoint": str(at(trial, "start")), "layout": trial.before, "goes_on": False, "steps": STEPS,
            "saved": str(at(trial, "saved")), "save_after": AFTER,
        }
        for trial in TRIALS
    ]  # fmt: skip
    first = answered(RANK_PROGRAM, begun, folder)
    for trial in TRIALS:
        carry(trial, at(trial, "saved"), at(trial, "fsdp"), storage="fsdp_dtensor", **trial.target)
    wrapped = [
        {
            "name": trial.name, "checkpoint": str(at(trial, "fsdp")), "steps": STEPS - AFTER,
            "saved": str(at(trial, "fsdp-saved")), "save_after": AGAIN - AFTER,
        }
        for trial in TRIALS
    ]  # fmt: skip
    second = answered(FSDP_PROGRAM, wrapped, folder)
    for trial in TRIALS:
        carry(trial, at(trial, "fsdp-saved"), at(trial, "again"))
    going_on = [
        {"name": trial.name, "checkpoint": str(at(trial, "again")), "layout": trial.after, "goes_on": True, "steps": STEPS - AGAIN}
        for trial in TRIALS
    ]
    third = answered(RANK_PROGRAM, going_on, folder)
    return {trial.name: [rank[trial.name] for said in (first, second, third) for rank in said] for trial in TRIALS}


def answered(program: Path, tasks: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], ...]:
    (folder / "meeting").unlink(missing_ok=True)
    said = run_world(program, WORLD, tasks, folder)
    for rank in said:
        for task in tasks:
            assert "error" not in rank[task["name"]], rank[task["name"]]["error"]
    return said


def carry(trial: Trial, source: Path, target: Path, **stated: Any) -> None:
    job = job_of({"format": "megatron", "path": str(source)}, target, EVERYTHING, **stated)
    convert(job | {"model_type": trial.tiny.family}, engine="inline")


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_losses_are_those_of_a_run_without_a_break(trial: Trial, losses: dict[str, list[dict[str, Any]]]) -> None:
    whole, *others = (torch.tensor(rank["losses"]) for rank in losses[trial.name])
    assert len(whole) == STEPS
    assert sorted(map(len, others)) == sorted([STEPS, *[STEPS - AFTER] * WORLD, *[STEPS - AGAIN] * WORLD])
    for each in others:
        assert (whole[-len(each) :] - each).abs().max() <= TOLERANCE
    assert (whole[1:] - whole[:-1]).abs().min() > 100 * TOLERANCE
    assert len({round(rate, 9) for rank in losses[trial.name] for rate in rank["rates"]}) == 1
