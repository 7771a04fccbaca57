"""Rank files of a diffusion model are cut anew at the iteration that training has come to; the command writes `release`, as the tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.cli.mm_convert import main
from convsvc.conversion import convert
from tests.dialects.mcore.rank_files import change
from tests.golden.mindspeed_mm_corpus import write_input

TRACKER = "latest_checkpointed_iteration.txt"
# Its sizes are no published model's.
pytestmark = pytest.mark.not_for_transformers


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """As training saves them: the iteration, state."""
    write_input({"kind": "hf", "fixture": "wan_t2v", "seed": 1}, tmp_path / "hf")
    ranks = {"format": "mindspeed-mm-sora", "path": str(tmp_path / "ranks"), "pp_layers": [1, 3]}
    convert({"model_type": "wan", "source": {"format": "diffusers", "path": str(tmp_path / "hf")}, "target": ranks}, engine="inline")
    change(tmp_path / "ranks", lambda content, number: content.update(iteration=20, optimizer={"state": {}}))
    (tmp_path / "ranks" / "release").rename(tmp_path / "ranks" / "iter_0000020")
    (tmp_path / "ranks" / TRACKER).write_text("20")
    return tmp_path


def written(out: Path) -> tuple[str, str, Any]:
    """The tracker's word, the iteration's directory, what a rank's file says of it."""
    file = next(out.glob("*/mp_rank_00*/model_optim_rng.pt"))
    return (out / TRACKER).read_text(), file.parent.parent.name, torch.load(file, weights_only=True).get("iteration")


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({}, ("20", "iter_0000020", 20)),
        ({"pp_layers": [[1, 1], [1, 1]]}, ("20", "iter_0000020", 20)),
        ({"iteration": "7"}, ("7", "iter_0000007", 7)),
        ({"iteration": "release"}, ("release", "release", None)),
    ],
)
def test_the_iteration_is_kept_or_stated(trained: Path, stated: dict[str, Any], wanted: tuple[str, str, Any]) -> None:
    ranks, out = {"format": "mindspeed-mm-sora", "path": str(trained / "ranks")}, trained / "out"
    convert({"model_type": "wan", "source": ranks, "target": {"format": "mindspeed-mm-sora", "path": str(out), **stated}}, engine="inline")
    assert written(out) == wanted


def test_the_command_begins_anew(trained: Path) -> None:
    assert main(["WanConverter", "resplit", f"--cfg.source_path={trained / 'ranks'}", f"--cfg.target_path={trained / 'out'}"]) == 0
    assert written(trained / "out") == ("release", "release", None)


def test_what_is_published_begins_at_release(trained: Path) -> None:
    source = {"format": "diffusers", "path": str(trained / "hf")}
    convert(
        {"model_type": "wan", "source": source, "target": {"format": "mindspeed-mm-sora", "path": str(trained / "out")}}, engine="inline"
    )
    assert written(trained / "out") == ("release", "release", None)
