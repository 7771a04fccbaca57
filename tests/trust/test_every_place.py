"""Verifying a target looks at every place that was written: replicas on all ranks, and what was filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert, verify
from convsvc.engine.listener import Listener
from convsvc.errors import VerifyError
from convsvc.execute.staging.sites import staging_path
from tests.tiny_checkpoints import write_llama
from tests.trust.stored import poke

RANKS = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "make_vocab_size_divisible_by": 48}
NAN = b"\xc0\x7f"


def job(tmp_path: Path, **options: Any) -> dict[str, Any]:
    write_llama(tmp_path / "hf")
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), **RANKS}
    return {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": target, "options": options}


def file_of(root: Path, name: str) -> Path:
    return root / "iter_0000001" / name / "model_optim_rng.pt"


CHANGES = {
    "a norm's first place": ("mp_rank_00_000", "model/decoder.layers.0.input_layernorm.weight", 5),
    "a norm's replica": ("mp_rank_01_000", "model/decoder.layers.0.input_layernorm.weight", 5),
    "the final norm's replica": ("mp_rank_01_001", "model/decoder.final_layernorm.weight", 0),
    "a row of padding": ("mp_rank_01_000", "model/embedding.word_embeddings.weight", 47 * 16 + 3),
    "the first row of padding": ("mp_rank_01_001", "model/output_layer.weight", 16 * 16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_place_is_found_in_a_target_that_is_there(change: tuple[str, str, int], tmp_path: Path) -> None:
    wanted = job(tmp_path)
    convert(wanted, engine="inline")
    verify(wanted)
    rank, name, element = change
    poke(file_of(tmp_path / "mcore", rank), name, element, NAN)
    with pytest.raises(VerifyError):
        verify(wanted)


class Meddling(Listener):
    """Changes a staged file once it is sealed and its digests are compared."""

    def __init__(self, staging: Path, change: tuple[str, str, int]) -> None:
        self.staging, self.change = staging, change

    def phase(self, name: str, total: int) -> None:
        if name == "compare":
            rank, stored, element = self.change
            poke(file_of(self.staging, rank), stored, element, NAN)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_way_back_finds_a_changed_place_before_the_target_is_published(change: tuple[str, str, int], tmp_path: Path) -> None:
    target = tmp_path / "mcore"
    with pytest.raises(VerifyError):
        convert(job(tmp_path, verify="roundtrip"), engine="inline", listener=Meddling(staging_path(target), change))
    assert not target.exists()
