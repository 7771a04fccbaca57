"""Which file of a rank is meant, and how tensors are spread over parts, by MindSpore's own answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from convsvc.dialects.mindformers.files import PART_BYTES, choose_file, part_count, spread_over_parts
from convsvc.errors import SourceError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "golden/mindformers/unit_vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["pick_file"], ids=lambda each: f"{each['suffix']}-{len(each['files'])}")
def test_the_file_that_mindspore_picks_is_picked(vector: dict[str, Any]) -> None:
    for files in (vector["files"], vector["files"][::-1]):
        if "pick" in vector:
            assert choose_file(files, vector["suffix"]) == vector["pick"]
        else:
            with pytest.raises(SourceError, match="more than one file ends with") as caught:
                choose_file(files, vector["suffix"])
            assert set(caught.value.facts) == set(vector["files"])


@pytest.mark.parametrize("vector", VECTORS["split_weight_dict"])
def test_tensors_are_spread_as_mindspore_spreads_them(vector: dict[str, Any]) -> None:
    assert spread_over_parts(vector["sizes"], vector["groups"]) == vector["out"]


def test_the_vectors_are_there() -> None:
    assert (len(VECTORS["pick_file"]), len(VECTORS["split_weight_dict"])) == (8, 4)


def test_a_part_is_3_gib_and_no_part_is_empty() -> None:
    assert part_count({"a": PART_BYTES, "b": PART_BYTES}) == 2
    assert part_count({"a": PART_BYTES, "b": PART_BYTES, "c": 1}) == 3
    assert part_count({"a": 9 * PART_BYTES}) == 1
    assert part_count({}) == 1


def test_other_files_of_a_rank_do_not_count() -> None:
    assert choose_file(["a_rank_0-1_1.safetensors", "a_rank_0-2_1.ckpt", "notes.txt"]) == "a_rank_0-1_1.safetensors"


def test_a_rank_without_the_file_is_an_error() -> None:
    for suffix in (None, "7_1"):
        with pytest.raises(SourceError, match="no safetensors file"):
            choose_file(["a_rank_0-1_1.ckpt", "a_rank_0-7_2.safetensors"] if suffix else [], suffix)


def test_a_number_cut_in_two_is_not_taken_though_it_is_the_only_file() -> None:
    with pytest.raises(SourceError, match="as whole numbers"):
        choose_file(["q_rank_0-110_1.safetensors"], "10_1")
    assert choose_file(["q_rank_0-110_1.safetensors"], "110_1") == "q_rank_0-110_1.safetensors"
    assert choose_file(["q_10_1.safetensors"], "10_1") == "q_10_1.safetensors"


def test_two_runs_of_one_step_are_not_guessed_between() -> None:
    with pytest.raises(SourceError, match="more than one file is the newest"):
        choose_file(["q_rank_0-10_1.safetensors", "q_rank_0_1-10_1.safetensors"])


def test_several_files_of_which_none_has_the_whole_numbers_are_refused() -> None:
    with pytest.raises(SourceError, match="none of several files ends with '10_1'"):
        choose_file(["q_rank_0-110_1.safetensors", "q_rank_0-210_1.safetensors"], "10_1")
