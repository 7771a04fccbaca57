"""The vocabulary's size: what the job, the args and the stored rows say of it must agree, and padding must be what training pads by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.dialects.mcore.seen_sizes import check_padding
from convsvc.errors import JobError, SourceError
from convsvc.models.facts import Facts
from convsvc.plan.planner import make_plan
from tests.dialects.mcore.rank_files import assert_comes_back, back, say, write_ranks


def test_a_vocabulary_that_the_job_and_the_args_say_otherwise_is_refused(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    with pytest.raises(JobError, match=r"options\.vocab_size is 52; the args saved in .* say vocab_size 64"):
        make_plan(back(mcore, vocab_size=52))
    make_plan(back(mcore, vocab_size=64))


def test_args_that_say_fewer_tokens_than_are_stored_are_refused(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    say(mcore, vocab_size=56, padded_vocab_size=64, make_vocab_size_divisible_by=1)
    with pytest.raises(SourceError, match=r"8 row\(s\) beyond the vocabulary cannot be its padding: .* padded it to 56"):
        make_plan(back(mcore))


def test_a_vocabulary_larger_than_what_is_stored_is_refused(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    say(mcore, vocab_size=None)
    with pytest.raises(SourceError, match="the vocabulary has more rows than are stored\n  64 rows are stored"):
        make_plan(back(mcore, vocab_size=65))


def test_rows_that_are_not_as_many_as_the_args_say_are_refused(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2)
    say(mcore, padded_vocab_size=128)
    with pytest.raises(SourceError, match="the embedding has not as many rows as its args say"):
        make_plan(back(mcore))


def test_what_we_padded_comes_back(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 2, tensor_parallel_size=2, make_vocab_size_divisible_by=48)
    assert_comes_back(mcore)


@pytest.mark.parametrize(
    ("vocab", "stored", "tp", "said"),
    [
        (50257, 50304, 1, {"make_vocab_size_divisible_by": 128, "padded_vocab_size": 50304}),
        (50257, 50304, 1, {"make_vocab_size_divisible_by": 128, "vocab_size": 50257}),
        (50257, 51200, 8, {"make_vocab_size_divisible_by": 128}),
        (50257, 51200, 1, {"make_vocab_size_divisible_by": 128}),  # trained with tp 8, cut anew
        (125000, 125696, 1, {"make_vocab_size_divisible_by": 1, "padded_vocab_size": 125696}),
        (125000, 125696, 1, {}),
        (50304, 50304, 1, {"make_vocab_size_divisible_by": 7}),
    ],
)
def test_what_training_may_have_padded_is_accepted(vocab: int, stored: int, tp: int, said: dict[str, Any]) -> None:
    check_padding(Facts(said, "args"), vocab, stored, tp)


@pytest.mark.parametrize(
    ("vocab", "stored", "tp", "said"),
    [
        (50000, 50304, 1, {"make_vocab_size_divisible_by": 128}),
        (50257, 51200, 1, {"make_vocab_size_divisible_by": 128, "vocab_size": 50257}),
        (24, 32, 1, {"make_vocab_size_divisible_by": 1, "vocab_size": 24, "padded_vocab_size": 32}),
        (24, 32, 1, {"padded_vocab_size": 24}),
        (33, 32, 1, {}),
    ],
)
def test_rows_that_no_training_adds_are_refused(vocab: int, stored: int, tp: int, said: dict[str, Any]) -> None:
    with pytest.raises(SourceError):
        check_padding(Facts(said, "args"), vocab, stored, tp)
