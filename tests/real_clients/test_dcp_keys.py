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
TINY = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS, "mlp_only_layers": [0]})
TARGETS: dict[str, dict[str, Any]] = {
    "fsdp_dtensor": {"storage": "fsdp_dtensor"},
    "torch_dist": {"chunk_size": "2KiB"},
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a Hugging Face directory, `hf`; each target's iteration; and its tensors as one process loads them."""
    folder = tmp_path_factory.mktemp("written")
    save_random(TINY, folder / "hf", dtype=torch.bfloat16, tied=False)
    for name, stated in TARGETS.items():
        target = {"format": "megatron", "path": str(folder / name), **stated}
        run({"format": "huggingface", "path": str(folder / "hf")}, target, verify="digest")
        save_file(whole_tensors(folder / name / "release"), folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_world_loads_what_is_written_and_what_it_saves_comes_back_bit_for_bit(size: int, written: Path, tmp_path: Path) -> None:
    pairs = [(str(written / name / "release"), str(written / f"{name}.safetensors")) for name in TARGETS]
    run_ranks(size, [str(tmp_path), *[each for pair in pairs for each in pair]])
    want = in_safetensors(written / "hf")
    for name in TARGETS:
        for cut in CUTS:
            saved = tmp_path / name / cut
            assert len(list(saved.glob("*.distcp"))) == size
            for beside in ("common.pt", "metadata.json") if name == "torch_dist" else ():
                shutil.copy(written / name / "release" / beside, saved)
            source = {"format": "megatron", "path": str(saved), "config_dir": str(written / "hf")}
            stated = {"storage": "fsdp_dtensor"} if name == "fsdp_dtensor" else {}
            back = tmp_path / "back" / name / cut
            run(source | stated, {"format": "huggingface", "path": str(back)}, verify="digest")
            assert same(want, in_safetensors(back)), (name, cut)
