"""Megatron's distributed optimizer trains, saves, and goes on at another layout with what we made of that, as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from tests.real_clients.ranks import megatron_core, run_world
from tests.real_clients.test_megatron_dist import LLAMA, MOE
from tests.real_clients.tiny_models import Tiny, save_random

pytestmark = pytest.mark.real_client

RANK_PROGRAM = Path(__file__).with_name("megatron_train_rank.py")
WORLD, STEPS, AFTER = 2, 6, 3
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Trial:
    """A model, the layout at which it is trained, and that at which it goes on with a target of these words."""

    name: str
    tiny: Tiny
    before: dict[str, int]
    after: dict[str, int]
    target: dict[str, Any]


TP, PP, EP = {"tp": 2}, {"pp": 2}, {"ep": 2}
TRIALS = (
    Trial("dense-tp2-pp2", LLAMA, TP, PP, {}),
    Trial("dense-pp2-tp2-per-layer", LLAMA, PP, TP, {"layer_keys": "per-layer", "chunk_size": "2KiB"}),
    Trial("dense-tp2-vpp2-with-more-rows", LLAMA, TP, {"pp": 2, "vpp": 2}, {"make_vocab_size_divisible_by": 16}),
    Trial("experts-pp2-dp2", MOE, PP, {}, {"layer_keys": "per-layer"}),
    # Experts that are spread have an optimizer of their own, and Megatron loads a chain of two at such a layout only.
    Trial("experts-ep2-with-keys-per-layer", MOE, EP, EP, {"layer_keys": "per-layer", "chunk_size": "2KiB"}),
)


@pytest.fixture(scope="module", params=["installed", "newest"])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """What each trial's losses were: "NAME" without a break, "NAME again" behind it."""
    path = megatron_core(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    begun, going_on = [], []
    for trial in TRIALS:
        start, saved, made = (folder / f"{trial.name}-{what}" for what in ("start", "saved", "made"))
        save_random(trial.tiny, folder / trial.name, dtype=torch.float32, tied=False)
        convert(job_of({"format": "huggingface", "path": str(folder / trial.name)}, start), engine="inline")
        asked = {"checkpoint": str(start), "layout": trial.before, "goes_on": False, "steps": STEPS}
        begun.append({**asked, "name": trial.name, "saved": str(saved), "save_after": AFTER})
        asked = {"checkpoint": str(made), "layout": trial.after, "goes_on": True, "steps": STEPS - AFTER}
        going_on.append({**asked, "name": f"{trial.name} again"})
    first = run_world(RANK_PROGRAM, WORLD, begun, folder, path)
    for trial in TRIALS:
        assert "error" not in first[0][trial.name], first[0][trial.name]["error"]
        source = {"format": "megatron", "path": str(folder / f"{trial.name}-saved")}
        job = job_of(source, folder / f"{trial.name}-made", {"state": "training"}, **trial.target)
        convert(job | {"model_type": trial.tiny.family}, engine="inline")
    (folder / "meeting").unlink(missing_ok=True)
    second = run_world(RANK_PROGRAM, WORLD, going_on, folder, path)
    return tuple({**one, **other} for one, other in zip(first, second, strict=True))


def job_of(source: dict[str, Any], target: Path, options: dict[str, Any] | None = None, **stated: Any) -> dict[str, Any]:
    return {"source": source, "target": {"format": "megatron", "path": str(target), **stated}, "options": options or {}}


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_losses_are_those_of_a_run_without_a_break(trial: Trial, answers: tuple[dict[str, Any], ...]) -> None:
    for rank in answers:
        again = rank[f"{trial.name} again"]
        assert "error" not in again, again["error"]
        want, have = torch.tensor(rank[trial.name]["losses"]), torch.tensor(again["losses"])
        assert (want[AFTER:] - have).abs().max() <= TOLERANCE
        assert (want[1:] - want[:-1]).abs().min() > 100 * TOLERANCE
        assert again["rates"] == pytest.approx(rank[trial.name]["rates"])
