"""Rank files are laid out anew at the iteration that training has come to; the state that is not kept is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.dialects.mcore.progress import reached
from convsvc.errors import JobError
from convsvc.plan.planner import make_plan
from tests.dialects.mcore.rank_files import change, write_ranks
from tests.dialects.megatron.trained import train
from tests.plan.adapted_ranks import add_adapters
from tests.tiny_checkpoints import write_llama

TRACKER = "latest_checkpointed_iteration.txt"
STATE = {"optimizer": {"state": {}}, "opt_param_scheduler": {"max_lr": 1e-5}, "rng_state": [{"random_rng_state": None}]}
RANKS = [{"format": "mindspeed-llm"}, {"format": "megatron", "storage": "torch"}]


def trained_ranks(folder: Path, iteration: int = 500, state: bool = True, **said: Any) -> Path:
    """A run's directory of rank files, as training has saved them at an iteration; `said` are args."""
    mcore = write_ranks(folder, 2, tensor_parallel_size=2)

    def changing(content: dict[str, Any], number: int) -> None:
        content |= {"iteration": iteration, **(STATE if state else {})}
        vars(content["args"]).update({"iteration": iteration, "consumed_train_samples": 8 * iteration, **said})

    change(mcore, changing)
    if iteration != 1:
        (mcore / "iter_0000001").rename(mcore / f"iter_{iteration:07d}")
    (mcore / TRACKER).write_text(str(iteration))
    return mcore


def job_of(source: Path, target: dict[str, Any], options: dict[str, Any] | None = None, **stated: Any) -> dict[str, Any]:
    return {
        "model_type": "llama2",
        "source": {"format": "mindspeed-llm", "path": str(source), **stated},
        "target": {"path": str(source.parent / "out"), **target},
        "options": options or {},
    }


def written(job: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The tracker's word, the name of the iteration's directory, and what the first rank's file holds."""
    convert(job, engine="inline")
    out = Path(job["target"]["path"])
    file = next(out.glob("*/mp_rank_00*/model_optim_rng.pt"))
    return (out / TRACKER).read_text(), file.parent.parent.name, torch.load(file, weights_only=False)


@pytest.mark.parametrize("target", RANKS, ids=str)
def test_rank_files_are_cut_anew_at_the_iteration_of_training(tmp_path: Path, target: dict[str, Any]) -> None:
    tracker, folder, content = written(job_of(trained_ranks(tmp_path), target | {"pipeline_parallel_size": 2}))
    assert (tracker, folder, content["iteration"]) == ("500", "iter_0000500", 500)
    assert content["args"].consumed_train_samples == 4000
    assert not content.keys() & STATE.keys()


@pytest.mark.parametrize("storage", ["torch_dist", "fsdp_dtensor"])
def test_a_distributed_checkpoint_is_made_of_rank_files_at_their_iteration(tmp_path: Path, storage: str) -> None:
    job = job_of(trained_ranks(tmp_path), {"format": "megatron", "storage": storage})
    convert(job, engine="inline")
    assert (tmp_path / "out" / TRACKER).read_text() == "500"
    assert (tmp_path / "out" / "iter_0000500" / ".metadata").is_file()
    if storage == "torch_dist":
        common = torch.load(tmp_path / "out" / "iter_0000500" / "common.pt", weights_only=False)
        assert (common["iteration"], common["args"].consumed_train_samples) == (500, 4000)


@pytest.mark.parametrize("target", RANKS, ids=str)
def test_rank_files_are_made_of_a_distributed_checkpoint_at_its_iteration(tmp_path: Path, target: dict[str, Any]) -> None:
    source, weights = {"format": "huggingface", "path": str(write_llama(tmp_path / "hf"))}, tmp_path / "weights"
    convert({"source": source, "target": {"format": "megatron", "path": str(weights)}}, engine="inline")
    trained, _ = train(weights / "release", tmp_path / "trained")
    tracker, folder, content = written(job_of(trained, target, format="megatron"))
    assert (tracker, folder, content["iteration"]) == ("7", "iter_0000007", 7)


def test_a_job_that_states_an_iteration_has_that(tmp_path: Path) -> None:
    mcore = trained_ranks(tmp_path)
    tracker, folder, content = written(job_of(mcore, {"format": "mindspeed-llm", "iteration": "12"}))
    assert (tracker, folder, content["iteration"]) == ("12", "iter_0000012", 12)
    shutil.rmtree(tmp_path / "out")
    tracker, folder, content = written(job_of(mcore, {"format": "mindspeed-llm", "iteration": "release"}))
    assert (tracker, folder, content["iteration"]) == ("release", "release", 0)
    assert not hasattr(content["args"], "consumed_train_samples")


def test_what_is_cut_anew_comes_back_and_so_does_a_directory_that_somebody_renamed(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    (mcore / "iter_0000001").rename(mcore / "iter_0000300")
    (mcore / TRACKER).write_text("300")
    assert written(job_of(mcore, {"format": "mindspeed-llm"}))[:2] == ("300", "iter_0000300")
    again = job_of(tmp_path / "out", {"format": "mindspeed-llm", "path": str(tmp_path / "again")})
    assert written(again)[2]["iteration"] == 300


def test_merged_weights_are_another_model_than_was_trained(tmp_path: Path) -> None:
    mcore = trained_ranks(tmp_path)
    assert add_adapters(mcore, 4)
    job = job_of(mcore, {"format": "mindspeed-llm"}, lora={"r": 4, "alpha": 8})
    assert written(job)[:2] == ("1", "iter_0000001")


def test_weights_that_no_training_has_begun_with_begin_where_the_format_has_it(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    convert(job_of(mcore, {"format": "megatron"}), engine="inline")
    assert (tmp_path / "out" / TRACKER).read_text() == "release"
    assert (mcore / TRACKER).read_text() == "1"


@pytest.mark.parametrize(
    ("tree", "folder", "with_state", "want"),
    [
        ({"iteration": 500}, "iter_0000500", True, 500), ({"iteration": 500}, "iter_0000009", True, 500), ({}, "iter_0000009", False, 9),
        ({"iteration": 1}, "iter_0000001", True, 1), ({"iteration": 1}, "iter_0000001", False, None), ({}, "anywhere", True, None),
        ({"iteration": 5}, "anywhere", False, 5), ({"iteration": 5}, "release", True, None), ({"iteration": 0}, "iter_0000004", False, 4),
        ({"iteration": "7"}, "anywhere", True, None), ({"iteration": True}, "anywhere", True, None),
    ],
    ids=str,
)  # fmt: skip
def test_the_iteration_is_that_of_the_files_or_else_of_their_directory(tree: Any, folder: str, with_state: bool, want: int | None) -> None:
    assert reached(tree, folder, with_state=with_state) == want


def test_state_that_is_not_kept_is_named_by_a_job_for_weights(tmp_path: Path) -> None:
    mcore = trained_ranks(tmp_path)
    (mcore / "iter_0000500" / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"x")
    notes = [note.text for note in make_plan(job_of(mcore, RANKS[0])).notes if note.kind == "ignored"]
    for name in (*STATE, "distrib_optim.pt"):
        assert [text for text in notes if text.startswith(f"{name} ") and text.endswith("training state, not weights")]


@pytest.mark.parametrize("target", [*RANKS, {"format": "megatron"}, {"format": "huggingface"}], ids=str)
@pytest.mark.parametrize("source", [*RANKS, {"format": "mindspeed-mm"}], ids=str)
def test_a_job_for_training_is_refused_and_all_that_would_be_lost_is_named(
    tmp_path: Path, source: dict[str, Any], target: dict[str, Any]
) -> None:
    mcore = trained_ranks(tmp_path)
    (mcore / "iter_0000500" / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"x")
    with pytest.raises(JobError, match=f"optimizer state is not kept in a source of {source['format']}") as raised:
        make_plan(job_of(mcore, target, {"state": "training"}, **source))
    for name in (*STATE, "distrib_optim.pt"):
        assert f"would be lost: {name} " in str(raised.value)
    assert "--no-load-optim" in str(raised.value)
