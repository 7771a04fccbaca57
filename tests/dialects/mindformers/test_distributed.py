"""Rank directories as a source: nothing is taken for whole that is not, and no part of it is believed without another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.dialects.mindformers.files import check_one_step
from convsvc.errors import ConvsvcError, SourceError
from tests.dialects.mindformers.made import Tensors, back, make_llama, rewrite, run, same

STATED = {"architecture": {"num_attention_heads": 4}}
TP2DP2 = {"tensor_parallel_size": 2, "data_parallel_size": 2}
NORM = "decoder.final_layernorm.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A small Llama cut over tp 2 and dp 2, every rank with all that it has; and its Hugging Face tensors."""
    return make_llama(tmp_path_factory.mktemp("llama"), **TP2DP2)


@pytest.fixture
def ranks(made: tuple[Path, Tensors], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "mf")
    return tmp_path / "mf"


def file_of(root: Path, rank: int) -> Path:
    return next((root / "checkpoint" / f"rank_{rank}").glob("*.safetensors"))


def refusal(root: Path, **stated: Any) -> str:
    with pytest.raises(SourceError) as caught:
        back(root, root.parent / "refused", **STATED, **stated)
    return str(caught.value)


def save_step(root: Path, step: str, *ranks: int) -> None:
    """Another step of these ranks, the double of what they have."""
    for rank in ranks:
        first = file_of(root, rank)
        new = first.with_name(first.name.replace("-1_1.", f"-{step}."))
        shutil.copy(first, new)
        rewrite(new, {name: tensor * 2 for name, tensor in load_file(first).items()})


def test_the_step_that_the_job_says_is_taken_else_the_newest(ranks: Path, made: tuple[Path, Tensors], tmp_path: Path) -> None:
    save_step(ranks, "2_10", 0, 1, 2, 3)
    twice = {name: tensor * 2 for name, tensor in made[1].items()}
    assert same(twice, back(ranks, tmp_path / "newest", **STATED)[0])
    assert same(made[1], back(ranks, tmp_path / "first", file_suffix="1_1", **STATED)[0])


def test_ranks_of_different_steps_are_refused_by_step_and_rank(ranks: Path) -> None:
    save_step(ranks, "2_10", 0, 1, 3)
    said = refusal(ranks)
    assert "different steps" in said
    assert "epoch 2, step 10: rank_0, rank_1, rank_3" in said
    assert "epoch 1, step 1: rank_2" in said


def test_names_without_a_step_are_one_step() -> None:
    check_one_step({0: "rank_0/q_rank_0.safetensors", 1: "rank_1/q_rank_1.safetensors"})
    with pytest.raises(SourceError, match="different steps") as caught:
        check_one_step({**dict.fromkeys(range(6), "q_rank_0-1_1.safetensors"), 6: "q.safetensors"})
    assert caught.value.facts == ("epoch 1, step 1: rank_0, rank_1, rank_2, rank_3 and 2 more", "no step in its name: rank_6")


def test_a_file_that_lacks_what_its_strategy_gives_it_names_tensor_rank_and_file(ranks: Path) -> None:
    rewrite(file_of(ranks, 2), {NORM: None})
    said = refusal(ranks)
    assert f"rank_2 lacks {NORM}, which its strategy gives it" in said
    assert file_of(ranks, 2).name in said


def test_redundancy_that_was_removed_is_said_by_the_file_before_the_job(ranks: Path, made: tuple[Path, Tensors], tmp_path: Path) -> None:
    rewrite(file_of(ranks, 2), {NORM: None})
    assert same(made[1], back(ranks, tmp_path / "job", has_redundancy=False, **STATED)[0])
    rewrite(file_of(ranks, 2), {}, {"format": "ms", "remove_redundancy": "True"})
    assert same(made[1], back(ranks, tmp_path / "file", has_redundancy=True, **STATED)[0])
    rewrite(file_of(ranks, 2), {}, {"format": "ms", "remove_redundancy": "False"})
    assert "rank_2 lacks" in refusal(ranks, has_redundancy=False)


def test_a_part_that_no_rank_has_names_tensor_box_and_ranks(ranks: Path) -> None:
    name = "decoder.layers.1.mlp.linear_fc2.weight"
    for rank in (1, 3):
        rewrite(file_of(ranks, rank), {name: None}, {"format": "ms", "remove_redundancy": "True"})
    assert f"{name}[0:16, 16:32] of [16, 32]: rank_1 or rank_3 should have it" in refusal(ranks)


def test_a_rank_that_is_missing_is_made_up_for_by_its_replica_only(ranks: Path, made: tuple[Path, Tensors], tmp_path: Path) -> None:
    shutil.rmtree(ranks / "checkpoint" / "rank_3")
    have, result = back(ranks, tmp_path / "out", **STATED)
    assert same(made[1], have)
    assert any("1 of 4 rank directories are not there" in note.text for note in result.notes)
    shutil.rmtree(ranks / "checkpoint" / "rank_1")
    said = refusal(ranks)
    assert "part(s) of tensors are in no rank's file" in said
    assert "rank_1 or rank_3 should have it" in said


def test_replicas_that_differ_name_the_tensor_and_both_files(ranks: Path, tmp_path: Path) -> None:
    norm = load_file(file_of(ranks, 3))[NORM].clone()
    norm[5] += 1
    rewrite(file_of(ranks, 3), {NORM: norm})
    with pytest.raises(ConvsvcError) as caught:
        back(ranks, tmp_path / "out", **STATED)
    assert NORM in str(caught.value)
    assert "rank_3" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_optimizer_and_counters_are_no_weights_and_are_said(ranks: Path, made: tuple[Path, Tensors], tmp_path: Path) -> None:
    for rank in range(4):
        state = {
            f"{moment}.{name}": tensor.float()
            for name, tensor in load_file(file_of(ranks, rank)).items()
            for moment in ("adam_m", "adam_v")
        }
        counters = {"epoch_num": torch.tensor(1), "global_step": torch.tensor([7]), "loss_scale": torch.tensor(1.0)}
        rewrite(file_of(ranks, rank), state | counters | {f"accu_grads.{NORM}": torch.zeros(16)})
    have, result = back(ranks, tmp_path / "out", **STATED)
    assert same(made[1], have)
    said = " ".join(note.text for note in result.notes)
    assert "optimizer state, not a weight" in said
    assert "a counter or a scale of training" in said
    assert "a buffer of training" in said


def test_a_tensor_that_is_neither_weight_nor_training_state_is_an_error(ranks: Path, tmp_path: Path) -> None:
    for rank in range(4):
        rewrite(file_of(ranks, rank), {"decoder.layers.0.mlp.extra.weight": torch.zeros(4)})
    with pytest.raises(ConvsvcError, match=r"decoder\.layers\.0\.mlp\.extra\.weight"):
        back(ranks, tmp_path / "out", **STATED)


def test_the_strategy_of_another_training_is_refused(ranks: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for name, sizes in {"tp1": {"data_parallel_size": 2}, "dp4": {"data_parallel_size": 4}}.items():
        run({"format": "mindformers", "path": str(ranks)}, {"format": "mindformers", "path": str(others / name), **sizes})
    assert "rank_3, and the strategy is for 2 ranks" in refusal(ranks, strategy_path=str(others / "tp1" / "strategy"))
    # Halves taken for whole tensors make a model, but not the one that config.json beside them speaks of.
    with pytest.raises(ConvsvcError, match=r"config\.json") as caught:
        back(ranks, tmp_path / "refused", strategy_path=str(others / "dp4" / "strategy"), **STATED)
    assert "config.json says 4, the weights have 2" in str(caught.value)
    merged = ranks / "strategy" / "ckpt_strategy_rank_9.ckpt"
    shutil.copy(others / "tp1" / "strategy" / "ckpt_strategy_rank_0.ckpt", merged)
    assert "in different ways" in refusal(ranks)


def test_without_a_strategy_it_is_said_where_one_was_looked_for(ranks: Path) -> None:
    shutil.rmtree(ranks / "strategy")
    said = refusal(ranks)
    assert "no strategy file says how" in said
    assert "source.strategy_path" in said
