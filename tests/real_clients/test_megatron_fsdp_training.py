"""Training that began without Megatron-FSDP goes on with it, and then without it again, with the losses of an undisturbed run.

Every checkpoint between is one that we made of what Megatron saved, optimizer and all: torch_dist -> fsdp_dtensor -> torch_dist.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from convsvc.conversion import convert
from tests.dialects.dcp.made import same, write_dcp
from tests.dialects.megatron.test_megatron import keys_of
from tests.real_clients.ranks import run_world
from tests.real_clients.test_megatron_dist import LLAMA, PARTLY_DENSE
from tests.real_clients.test_megatron_training import RANK_PROGRAM, STEPS, TOLERANCE, WORLD, Trial, job_of
from tests.real_clients.tiny_models import save_random

pytestmark = pytest.mark.real_client

FSDP_PROGRAM = Path(__file__).with_name("megatron_fsdp_train_rank.py")
AFTER, AGAIN = 2, 4
EVERYTHING = {"state": "training"}

# The layouts before Megatron-FSDP and after it, and how the latter's checkpoint is written.
TRIALS = (
    Trial("dense-tp2-fsdp-pp2", LLAMA, {"tp": 2}, {"pp": 2}, {"chunk_size": "1KiB"}),
    # Experts that are spread have an optimizer of their own before, and are the modules that compute without Transformer Engine.
    Trial("experts-ep2-fsdp-dp2", PARTLY_DENSE, {"ep": 2}, {}, {"moe_grouped_gemm": False}),
)


@dataclass(frozen=True, slots=True)
class Trained:
    """By trial, of every rank's losses: the undisturbed run, Megatron-FSDP's from AFTER on, and what goes on from AGAIN on."""

    folder: Path
    losses: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every trial, and what bf16 training would have saved of it."""
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
        write_in_half(at(trial, "saved"), at(trial, "half-saved"))
        for source, target in (("saved", "fsdp"), ("half-saved", "half")):
            carry(trial, at(trial, source), at(trial, target), storage="fsdp_dtensor", **trial.target)
    wrapped = [
        {
            "name": trial.name + (" in half" if half else ""), "checkpoint": str(at(trial, "half" if half else "fsdp")), "half": half,
            "steps": 0 if half else STEPS - AFTER, "save_after": 0 if half else AGAIN - AFTER,
            "saved": str(at(trial, "half-again" if half else "fsdp-saved")),
        }
        for trial in TRIALS
        for half in (False, True)
    ]  # fmt: skip
    second = answered(FSDP_PROGRAM, wrapped, folder)
    for trial in TRIALS:
        carry(trial, at(trial, "fsdp-saved"), at(trial, "again"))
    going_on = [
        {"name": trial.name, "checkpoint": str(at(trial, "again")), "layout": trial.after, "goes_on": True, "steps": STEPS - AGAIN}
        for trial in TRIALS
    ]
    third = answered(RANK_PROGRAM, going_on, folder)
    return Trained(folder, {trial.name: [rank[trial.name] for said in (first, second, third) for rank in said] for trial in TRIALS})


def write_in_half(saved: Path, target: Path) -> None:
    """What was saved as bf16 training would have it: weights are rounded, the main weights are as they were."""
    folder = next(saved.glob("*/.metadata")).parent
    write_dcp(target, {name: each if name.startswith("optimizer.") else each.bfloat16() for name, each in keys_of(folder).items()})
    common = torch.load(folder / "common.pt", weights_only=False)
    common["args"].bf16 = True
    torch.save(common, target / "common.pt")
    shutil.copy(folder / "metadata.json", target / "metadata.json")


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
def test_losses_are_those_of_a_run_without_a_break(trial: Trial, trained: Trained) -> None:
    losses = trained.losses
    whole, *others = (torch.tensor(rank["losses"]) for rank in losses[trial.name])
    assert len(whole) == STEPS
    assert sorted(map(len, others)) == sorted([STEPS, *[STEPS - AFTER] * WORLD, *[STEPS - AGAIN] * WORLD])
    for each in others:
        assert (whole[-len(each) :] - each).abs().max() <= TOLERANCE
    assert (whole[1:] - whole[:-1]).abs().min() > 100 * TOLERANCE
    assert len({round(rate, 9) for rank in losses[trial.name] for rate in rank["rates"]}) == 1


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_of_bf16_training_megatron_fsdp_loads_strictly_what_it_then_saves(trial: Trial, trained: Trained) -> None:
    """By its names of what is wrapped once more, objects included; every tensor comes back bit for bit, main weights in fp32."""
    ours, again = (next((trained.folder / f"{trial.name}-{what}").glob("*/.metadata")).parent for what in ("half", "half-again"))
    tensors = keys_of(ours)
    assert same(tensors, keys_of(again))
    assert {each.dtype for each in tensors.values()} == {torch.float32}
    assert sum(name.startswith("optimizer.state.module.module.module.") for name in tensors) == 3 * sum(
        name.startswith("model.") for name in tensors
    )
    names, others = (set(FileSystemReader(folder).read_metadata().state_dict_metadata) for folder in (ours, again))
    assert others <= names
    assert names - others <= {"num_floating_point_operations_so_far"}
