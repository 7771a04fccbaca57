"""A `.metadata` of very many entries: what one of them costs does not depend on how many there are. The clock is not asked."""

from __future__ import annotations

import pickle
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint.filesystem import _StorageInfo

from benchmarks.entries import Layout, write_training_checkpoint
from convsvc.errors import ConvsvcError, FormatError
from convsvc.formats.dcp.metadata import LIMITS
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan

CONFIG = {
    "model_type": "deepseek_v3", "hidden_size": 8, "vocab_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "kv_lora_rank": 6, "q_lora_rank": 5, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4,
    "intermediate_size": 16, "moe_intermediate_size": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
LAYOUT = Layout(ranks=8, tp=2, etp=4)
EXPERTS = 32
# Kimi-K2's 1.2 million entries take 960 MiB, of which .metadata itself is 170.
BYTES = 1000


def plan(root: Path) -> Any:
    return make_plan({"source": {"format": "megatron", "path": str(root)}, "target": {"format": "huggingface", "path": str(root / "back")}})


def inspect(root: Path) -> Any:
    return inspect_checkpoint(str(root))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """The same model with so many experts, and with twice as many; and how many entries each has."""
    root = tmp_path_factory.mktemp("entries")
    made = [(root / str(experts), CONFIG | {"n_routed_experts": experts}) for experts in (EXPERTS, 2 * EXPERTS)]
    found = [(path, write_training_checkpoint(path, config, LAYOUT)) for path, config in made]
    for ask in (plan, inspect):  # what is imported and remembered once is not counted
        ask(found[0][0])
    return found


def test_training_state_of_a_million_entries_is_named_in_a_line_and_the_weights_are_whole(checkpoints: list[tuple[Path, int]]) -> None:
    root, entries = checkpoints[1]
    said = inspect(root)
    assert said["complete"], said
    assert said["model_type"] == "deepseek3"
    assert entries > 6000
    notes = [note.text for note in plan(root).notes if "fully_reshardable" in note.text]
    assert len(notes) == 1


def steps_of(ask: Callable[[Path], Any], root: Path) -> int:
    """How many functions are called, in every thread."""
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    threading.setprofile(called)
    sys.setprofile(called)
    try:
        ask(root)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]  # typeshed does not know that None ends it
    return count


@pytest.mark.parametrize("ask", [inspect, plan])
def test_twice_as_many_entries_take_twice_as_many_steps(ask: Callable[[Path], Any], checkpoints: list[tuple[Path, int]]) -> None:
    (small, few), (large, many) = checkpoints
    at_first, at_last = steps_of(ask, small) / few, steps_of(ask, large) / many
    assert at_last < 1.1 * at_first


@pytest.mark.parametrize("ask", [inspect, plan])
def test_what_an_entry_takes_of_memory_is_bounded(ask: Callable[[Path], Any], checkpoints: list[tuple[Path, int]]) -> None:
    peaks = []
    for root, _ in checkpoints:
        tracemalloc.start()
        try:
            ask(root)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (checkpoints[1][1] - checkpoints[0][1]) < BYTES


def places(change: Callable[[_StorageInfo], _StorageInfo]) -> Callable[[Any], None]:
    def done(metadata: Any) -> None:
        metadata.storage_data = {index: change(place) for index, place in metadata.storage_data.items()}

    return done


def without_places(metadata: Any) -> None:
    metadata.storage_data = {}


def grown(metadata: Any) -> None:
    for said in metadata.state_dict_metadata.values():
        for chunk in getattr(said, "chunks", ()):
            chunk.sizes = type(chunk.sizes)([size + 1 for size in chunk.sizes])


WRONG: dict[str, tuple[Callable[[Any], object], str]] = {
    "files that are gone": (places(lambda at: _StorageInfo("gone" + at.relative_path, at.offset, at.length)), "8 of 8 files .*missing"),
    "files outside": (places(lambda at: _StorageInfo("../" + at.relative_path, at.offset, at.length)), "no file within the directory"),
    "all at one place": (places(lambda at: _StorageInfo(at.relative_path, 0, at.length)), "pairs of chunks lie at the same bytes"),
    "beyond the end": (places(lambda at: _StorageInfo(at.relative_path, at.offset + 2**40, at.length)), "is cut short"),
    "nowhere": (without_places, "does not say where it lies"),
    "larger than the tensor": (grown, "not within its size"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_of_thousands_is_an_error_of_a_few_lines(wrong: str, checkpoints: list[tuple[Path, int]], tmp_path: Path) -> None:
    root = shutil.copytree(checkpoints[0][0], tmp_path / "run")
    path, (change, words) = root / "iter_0000100" / ".metadata", WRONG[wrong]
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    for ask in (plan, inspect):
        with pytest.raises(ConvsvcError, match=words) as raised:
            ask(root)
        assert len(str(raised.value)) < 5000


def test_a_metadata_too_large_to_be_one_is_not_read(checkpoints: list[tuple[Path, int]], tmp_path: Path) -> None:
    root = shutil.copytree(checkpoints[0][0], tmp_path / "run")
    with (root / "iter_0000100" / ".metadata").open("r+b") as file:
        file.truncate(LIMITS.size_bytes + 1)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="at most 536870912 are read"):
            plan(root)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
