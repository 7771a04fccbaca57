"""Rank files of MindSpeed-MM are cut anew at the iteration that training has come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from tests.dialects.mcore.rank_files import change
from tests.roundtrip.test_any_modules import write

TRACKER = "latest_checkpointed_iteration.txt"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """As training saves them: no args, the iteration, state."""
    write("qwen2vl", tmp_path / "hf")
    ranks = {"format": "mindspeed-mm", "path": str(tmp_path / "ranks"), "tp_size": 2}
    convert({"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": ranks}, engine="inline")
    change(tmp_path / "ranks", lambda content, number: content.update(iteration=20, optimizer={"state": {}}))
    (tmp_path / "ranks" / "release").rename(tmp_path / "ranks" / "iter_0000020")
    (tmp_path / "ranks" / TRACKER).write_text("20")
    return tmp_path


def cut_anew(folder: Path, **stated: Any) -> tuple[str, str, Any, list[str]]:
    """The tracker's word, the iteration's directory, what a rank's file says of it, and the notes on what is ignored."""
    ranks = {"format": "mindspeed-mm", "path": str(folder / "ranks"), "config_dir": str(folder / "hf")}
    made = convert({"source": ranks, "target": {"format": "mindspeed-mm", "path": str(folder / "out"), **stated}}, engine="inline")
    file = next((folder / "out").glob("*/mp_rank_00/model_optim_rng.pt"))
    notes = [note.text for note in made.notes if note.kind == "ignored"]
    return (folder / "out" / TRACKER).read_text(), file.parent.parent.name, torch.load(file, weights_only=True).get("iteration"), notes


def test_the_iteration_is_kept_and_state_is_named(trained: Path) -> None:
    tracker, folder, iteration, notes = cut_anew(trained)
    assert (tracker, folder, iteration) == ("20", "iter_0000020", 20)
    assert "optimizer in the rank files: training state, not weights" in notes


def test_the_target_says_another(trained: Path) -> None:
    assert cut_anew(trained, iteration="release")[:3] == ("release", "release", None)
