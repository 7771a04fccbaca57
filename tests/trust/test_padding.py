"""Rows that are dropped as vocabulary padding are looked at: what is not padding is not dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.engine.driver import run_plan
from convsvc.engine.inline import InlineEngine
from convsvc.engine.listener import Listener
from convsvc.errors import SourceError
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama
from tests.trust.stored import poke

HIDDEN, VOCAB = 16, 64
EMBEDDING = "model/embedding.word_embeddings.weight"
ONES = b"\x80\x3f" * HIDDEN


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """Two ranks of 48 rows each: the second holds 16 real ones."""
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2, "make_vocab_size_divisible_by": 48}
    source = {"format": "huggingface", "path": str(write_llama(tmp_path / "hf"))}
    convert({"source": source, "target": target}, engine="inline")
    return tmp_path / "mcore"


def job(padded: Path, **options: Any) -> dict[str, Any]:
    target = {"format": "huggingface", "path": str(padded.with_name("out"))}
    return {"source": {"format": "mindspeed-llm", "path": str(padded)}, "target": target, "options": options}


def poke_row(padded: Path, row: int, value: bytes) -> None:
    poke(padded / "iter_0000001" / "mp_rank_01" / "model_optim_rng.pt", EMBEDDING, row * HIDDEN, value)


def test_zeros_are_padding(padded: Path) -> None:
    assert not any(note.kind == "lost" for note in convert(job(padded), engine="inline").notes)


def test_rows_that_are_all_alike_are_padding(padded: Path) -> None:
    for row in range(16, 48):
        poke_row(padded, row, ONES)
    convert(job(padded), engine="inline")


@pytest.mark.parametrize("row", [16, 31, 47])
def test_one_row_that_is_not_like_the_others_is_an_error(row: int, padded: Path) -> None:
    poke_row(padded, row, ONES)
    with pytest.raises(SourceError, match="the 32 rows beyond the vocabulary are dropped as padding, and they hold values") as caught:
        convert(job(padded), engine="inline")
    assert caught.value.details["stored"] == EMBEDDING
    assert caught.value.details["row"] == (row if row != 16 else 17)  # the first says what the others must be
    assert "options.on_loss" in str(caught.value.do)


def test_who_allows_losses_is_told_of_it_also_by_a_run_that_goes_on_after_that_task(padded: Path) -> None:
    poke_row(padded, 20, ONES)
    lost = [note for note in convert(job(padded, on_loss="note"), engine="inline").notes if note.kind == "lost"]
    assert len(lost) == 1
    assert "row 20" in lost[0].text

    wanted = job(padded, on_loss="note", on_exists="overwrite")
    plan = make_plan(wanted)
    with pytest.raises(RuntimeError):
        run_plan(plan, InlineEngine(), verify="none", on_exists="overwrite", listener=Dying())
    done = run_plan(plan, InlineEngine(), verify="none", on_exists="resume-overwrite")
    assert done.tasks_skipped == 1
    assert [note for note in done.notes if note.kind == "lost"] == lost


class Dying(Listener):
    """Ends the run once everything is written."""

    def phase(self, name: str, total: int) -> None:
        if name == "seal":
            raise RuntimeError("died")
