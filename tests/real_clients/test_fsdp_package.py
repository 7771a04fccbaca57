"""NVIDIA's package megatron-fsdp, without Megatron: it loads fsdp_dtensor and, of Hugging Face's names, dcp; what it saves comes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.dialects.dcp.made import in_safetensors, run, same
from tests.real_clients.ranks import NEWEST, run_world
from tests.real_clients.test_dcp_keys import whole_tensors
from tests.real_clients.tiny_models import EXPERTS, Tiny, save_random

pytestmark = pytest.mark.real_client
RANK_PROGRAM = Path(__file__).with_name("fsdp_package_rank.py")
TINY = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS, "mlp_only_layers": [0]})
PREFIX = "model.module."
TARGETS: dict[str, dict[str, Any]] = {
    "megatron": {"format": "megatron", "storage": "fsdp_dtensor", "chunk_size": "2KiB"},
    "hugging-face": {"format": "dcp", "prefix": PREFIX, "shards": 3},
}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_world_of_the_package_loads_what_is_written_and_what_it_saves_comes_back_bit_for_bit(size: int, tmp_path: Path) -> None:
    modules = os.environ.get(NEWEST)
    if modules is None or not (Path(modules) / "megatron_fsdp").is_dir():
        pytest.skip(f"make newest-megatron-core, and {NEWEST}=.megatron-core: the package megatron-fsdp is beside megatron-core there")
    hf = tmp_path / "hf"
    save_random(TINY, hf, dtype=torch.bfloat16, tied=False)
    tasks = []
    for name, stated in TARGETS.items():
        run({"format": "huggingface", "path": str(hf)}, {**stated, "path": str(tmp_path / name)}, verify="digest")
        ours = next((tmp_path / name).rglob(".metadata")).parent
        named = {PREFIX + key: each for key, each in in_safetensors(hf).items()} if name == "hugging-face" else whole_tensors(ours)
        save_file(named, tmp_path / f"{name}.safetensors")
        whole = str(tmp_path / f"{name}.safetensors")
        tasks.append({"name": name, "checkpoint": str(ours), "whole": whole, "again": str(tmp_path / f"{name}-again")})
    for said in run_world(RANK_PROGRAM, size, tasks, tmp_path, modules):
        for name in TARGETS:
            assert "error" not in said[name], said[name]["error"]
            assert said[name]["differ"] == []
            assert all(key.startswith(PREFIX) for key in said[name]["keys"])
            assert said[name]["uneven"] > 0 or size == 1
    for name, stated in TARGETS.items():
        source = {"format": stated["format"], "path": str(tmp_path / f"{name}-again"), "config_dir": str(hf)}
        run(source, {"format": "huggingface", "path": str(tmp_path / "back" / name)}, verify="digest")
        assert same(in_safetensors(hf), in_safetensors(tmp_path / "back" / name)), name
