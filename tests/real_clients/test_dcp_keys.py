"""torch.distributed.checkpoint and FSDP2, without Megatron, load fsdp_dtensor and torch_dist as we write them, and save what we read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from tests.dialects.dcp.made import in_safetensors, run, same
from tests.real_clients.tiny_models import EXPERTS, Tiny, save_random

pytestmark = pytest.mark.real_client
RANK = Path(__file__).with_name("dcp_keys_rank.py")
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 200
# Neither 2 nor 4 divides the rows of most tensors, nor the three layers that are an axis where they are stacked, nor the experts.
ODD = {
    "num_hidden_layers": 3, "hidden_size": 18, "intermediate_size": 33, "moe_intermediate_size": 7, "vocab_size": 67, "num_experts": 3,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6,
}  # fmt: skip
TINY = Tiny("qwen3-moe", "Qwen3MoeConfig", {**EXPERTS, **ODD, "mlp_only_layers": [0]})
ALIKE = Tiny("qwen3-moe", "Qwen3MoeConfig", {**EXPERTS, **ODD})
TARGETS: dict[str, dict[str, Any]] = {
    "fsdp_dtensor": {"storage": "fsdp_dtensor"},
    "torch_dist": {"chunk_size": "2KiB"},
    "stacked": {"layer_keys": "stacked", "chunk_size": "0.3KB"},
}
CUTS = ("rows", "both-ways")


def run_ranks(size: int, arguments: list[str]) -> None:
    """Runs that many ranks, each a process; an AssertionError has the words of one that failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen([sys.executable, str(RANK), *arguments], env={**os.environ, **world, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(size)
    ]
    try:
        for rank in ranks:
            said = rank.communicate(timeout=TIMEOUT_S)[1]
            assert rank.returncode == 0, said.decode()[-2000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def whole_tensors(folder: Path) -> dict[str, torch.Tensor]:
    said = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {name: torch.zeros(each.size, dtype=each.properties.dtype) for name, each in said.items() if hasattr(each, "size")}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return state


def source_of(name: str, folder: Path) -> Path:
    return folder / ("hf-alike" if name == "stacked" else "hf")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models as Hugging Face directories, `hf` and, whose layers are alike, `hf-alike`; each target's iteration; and its tensors as one
    process loads them."""
    folder = tmp_path_factory.mktemp("written")
    save_random(TINY, folder / "hf", dtype=torch.bfloat16, tied=False)
    save_random(ALIKE, folder / "hf-alike", dtype=torch.bfloat16, tied=False)
    for name, stated in TARGETS.items():
        target = {"format": "megatron", "path": str(folder / name), **stated}
        run({"format": "huggingface", "path": str(source_of(name, folder))}, target, verify="digest")
        save_file(whole_tensors(folder / name / "release"), folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_world_loads_what_is_written_and_what_it_saves_comes_back_bit_for_bit(size: int, written: Path, tmp_path: Path) -> None:
    pairs = [(str(written / name / "release"), str(written / f"{name}.safetensors")) for name in TARGETS]
    run_ranks(size, [str(tmp_path), *[each for pair in pairs for each in pair]])
    for name in TARGETS:
        hf = source_of(name, written)
        for cut in CUTS:
            saved = tmp_path / name / cut
            assert len(list(saved.glob("*.distcp"))) == size
            for beside in ("common.pt", "metadata.json") if name != "fsdp_dtensor" else ():
                shutil.copy(written / name / "release" / beside, saved)
            source = {"format": "megatron", "path": str(saved), "config_dir": str(hf)}
            stated = {"storage": "fsdp_dtensor"} if name == "fsdp_dtensor" else {}
            back = tmp_path / "back" / name / cut
            run(source | stated, {"format": "huggingface", "path": str(back)}, verify="digest")
            assert same(in_safetensors(hf), in_safetensors(back)), (name, cut)
