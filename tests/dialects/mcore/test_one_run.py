"""The files of all ranks are of one iteration of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.errors import SourceError
from convsvc.notes import Note
from convsvc.plan.planner import make_plan
from tests.dialects.mcore.rank_files import assert_comes_back, back, change, write_ranks


@pytest.fixture
def mcore(tmp_path: Path) -> Path:
    return write_ranks(tmp_path, 2, tensor_parallel_size=2)


def put(mcore: Path, which: int | None = None, its_iteration: int | None = None, **args: Any) -> None:
    """Change the iteration and args that one rank's file says, or those of all."""

    def changing(content: dict[str, Any], number: int) -> None:
        if which in (None, number):
            content["iteration"] = content["iteration"] if its_iteration is None else its_iteration
            vars(content["args"]).update(args)

    change(mcore, changing)


def test_files_of_two_iterations_are_refused(mcore: Path) -> None:
    put(mcore, 1, its_iteration=500)
    with pytest.raises(SourceError, match=r"mp_rank_01.* and .*mp_rank_00.* are not of one checkpoint\n  iteration: 500, and 1\n"):
        make_plan(back(mcore))


@pytest.mark.parametrize(
    "args",
    [
        {"seed": 7}, {"consumed_train_samples": 64}, {"iteration": 3}, {"num_query_groups": 4}, {"padded_vocab_size": 128}, {"lr": 0.1},
        {"virtual_pipeline_model_parallel_size": 2}, {"decoder_first_pipeline_num_layers": 1}, {"hidden_size": 32}, {"vocab_size": 60},
        {"pipeline_model_parallel_layout": "EttL"}, {"untie_embeddings_and_output_weights": None}, {"world_size": 16},
    ],
    ids=lambda args: next(iter(args)),
)  # fmt: skip
def test_files_of_two_runs_are_refused(mcore: Path, args: dict[str, Any]) -> None:
    put(mcore, 1, **args)
    with pytest.raises(SourceError, match=rf"are not of one checkpoint\n  args\.{next(iter(args))}: "):
        make_plan(back(mcore))


def test_what_differs_from_process_to_process_does_not_matter(mcore: Path) -> None:
    for rank in (0, 1):
        put(mcore, rank, rank=rank, local_rank=rank, master_addr=f"10.0.0.{rank}", tensor_model_parallel_rank=rank, seed=1234)
    assert_comes_back(mcore)


def test_files_of_one_iteration_in_the_directory_of_another_are_a_note(mcore: Path) -> None:
    put(mcore, its_iteration=500)
    plan = make_plan(back(mcore))
    assert Note("advice", "the rank files say that they are of iteration 500, and lie in iter_0000001") in plan.notes


@pytest.mark.parametrize("iteration", [0, 1])
def test_where_a_converter_says_no_iteration_there_is_nothing_to_say(mcore: Path, iteration: int) -> None:
    put(mcore, its_iteration=iteration)
    assert not [note for note in make_plan(back(mcore)).notes if note.kind == "advice" and "iteration" in note.text]
