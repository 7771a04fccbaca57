"""Megatron-FSDP loads what we write into its uneven shards and computes what transformers computes; what it saves is exported
alike. It is megatron-core's own wrapper, on CPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.plan.inspect import inspect_checkpoint
from tests.real_clients.ranks import megatron_core, run_world
from tests.real_clients.test_megatron_dist import (
    DEEPSEEK3,
    GLM5,
    LLAMA,
    MOE,
    NEXT,
    NO_SHARING,
    PARTLY_DENSE,
    QWEN3,
    QWEN35,
    QWEN35_MOE,
    SPARSE,
    TOLERANCE,
    add_mtp,
    read_tensors,
)
from tests.real_clients.tiny_models import SIZES, TOKENS, Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client

RANK_PROGRAM = Path(__file__).with_name("megatron_fsdp_rank.py")


@dataclass(frozen=True, slots=True)
class Trial:
    """A model, how it is written, how many ranks load it and at which layout; all of them are data parallel ranks where it says none."""

    name: str
    tiny: Tiny
    world: int
    target: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, int] = field(default_factory=dict)
    tied: bool = False
    mtp: bool = False
    later: str = ""  # why the core that is installed cannot load it


IN_ONE = "core 0.16 saves a delta net's projections in one matrix, later cores split them"
SMALL, MODULES, EP = {"chunk_size": "1KiB"}, {"moe_grouped_gemm": False}, {"ep": 2, "etp": 1}
TRIALS = (
    Trial("llama2-alone", LLAMA, 1),
    Trial("qwen3-tied-in-small-chunks", QWEN3, 2, SMALL, tied=True),
    Trial("qwen3-moe-partly-dense", PARTLY_DENSE, 2),
    Trial("qwen3-moe-of-modules", MOE, 2, MODULES),
    Trial("qwen3-moe-ep2-in-small-chunks", MOE, 2, SMALL, EP),
    Trial("deepseek3-with-mtp", DEEPSEEK3, 2, {"iteration": "12"}, mtp=True),
    Trial("qwen3-tp2", QWEN3, 2, {}, {"tp": 2}),
    Trial("qwen3-moe-over-four", PARTLY_DENSE, 4, SMALL),
    Trial("deepseek32-with-mtp", SPARSE, 2, SMALL, mtp=True, later=NO_SHARING),
    Trial("glm5-that-shares-indexers-ep2", GLM5, 2, {}, EP, later=NO_SHARING),
    Trial("glm5-that-shares-indexers", GLM5, 2, {}, later=NO_SHARING),
    Trial("qwen3-next-with-mtp", NEXT, 2, {}, mtp=True, later=IN_ONE),
    Trial("qwen3.5-tp2", QWEN35, 2, {}, {"tp": 2}, later=IN_ONE),
    Trial("qwen3.5-in-small-chunks", QWEN35, 2, SMALL, later=IN_ONE),
    Trial("qwen3.5-moe-over-four", QWEN35_MOE, 4, {}, later=IN_ONE),
)  # fmt: skip
NAMED = [pytest.param(trial, id=trial.name) for trial in TRIALS]


@dataclass(frozen=True, slots=True)
class Answered:
    """What every rank said of every trial, transformers' logits, and where sources and what was saved lie."""

    folder: Path
    answers: dict[str, list[dict[str, Any]]]
    expected: dict[str, torch.Tensor]

    def has(self, trial: Trial) -> None:
        """Skips a trial that was not run, as this core cannot."""
        if trial.name not in self.answers:
            pytest.skip(trial.later)


@pytest.fixture(scope="module", params=["installed", "newest"])
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Every trial in the world of its size: starting Megatron takes seconds."""
    path = megatron_core(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    run = [trial for trial in TRIALS if path or not trial.later]
    expected = {trial.name: write(trial, folder) for trial in run}
    answers: dict[str, list[dict[str, Any]]] = {}
    for world in sorted({trial.world for trial in run}):
        trials = [trial for trial in run if trial.world == world]
        tasks = [
            {
                "name": trial.name, "checkpoint": str(folder / trial.name), "layout": trial.layout, "tokens": TOKENS.tolist(),
                "again": str(folder / f"{trial.name}-again"),
            }
            for trial in trials
        ]  # fmt: skip
        (folder / f"world-{world}").mkdir()
        said = run_world(RANK_PROGRAM, world, tasks, folder / f"world-{world}", path)
        answers |= {trial.name: [each[trial.name] for each in said] for trial in trials}
    return Answered(folder, answers, expected)


def write(trial: Trial, folder: Path) -> torch.Tensor:
    """Writes a trial's model and converts it; transformers' logits."""
    source = folder / f"{trial.name}-hf"
    save_random(trial.tiny, source, dtype=torch.float32, tied=trial.tied)
    expected = logits(load(source)[0])
    if trial.mtp:
        add_mtp(source, trial.tiny.family)
    target = {"format": "megatron", "storage": "fsdp_dtensor", "path": str(folder / trial.name), **trial.target}
    convert({"source": {"format": "huggingface", "path": str(source)}, "target": target}, engine="inline")
    return expected


@pytest.mark.parametrize("trial", NAMED)
def test_megatron_fsdp_loads_strictly_and_the_logits_agree(trial: Trial, answered: Answered) -> None:
    """Where every rank has all of the model, when its shards are put together."""
    answered.has(trial)
    for said in answered.answers[trial.name]:
        assert "error" not in said, said["error"]
        assert all(name.startswith("module.") for name in said["keys"])
        assert said["uneven"] > 0 or trial.world == 1
    if trial.layout:
        return
    want = answered.expected[trial.name]
    have = torch.tensor(answered.answers[trial.name][-1]["logits"])[..., : want.shape[-1]]
    assert (have - want).abs().max() <= TOLERANCE
    assert want.abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("trial", NAMED)
def test_what_megatron_fsdp_saves_comes_back_bit_for_bit(trial: Trial, answered: Answered, tmp_path: Path) -> None:
    """In the shards of its ranks, some of which have no rows of a tensor. Norms that are stored less 1 are what float32 makes of that."""
    answered.has(trial)
    again = answered.folder / f"{trial.name}-again"
    said = inspect_checkpoint(str(again))
    assert (said["format"], said["layout"]["storage"], said["complete"]) == ("megatron", "fsdp_dtensor", True)
    job: dict[str, Any] = {
        "source": {"format": "megatron", "path": str(again)},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
        "options": {"vocab_size": SIZES["vocab_size"]},
    }
    convert(job, engine="inline")
    want, have = read_tensors(answered.folder / f"{trial.name}-hf"), read_tensors(tmp_path / "back")
    want |= {name: (each - 1) + 1 for name, each in want.items() if name.endswith(".linear_attn.norm.weight")}
    assert set(want) == set(have)
    assert not [name for name, tensor in want.items() if not torch.equal(tensor, have[name])]
