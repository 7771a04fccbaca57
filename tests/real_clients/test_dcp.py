"""Real clients: what worlds of processes save with torch.distributed.checkpoint is read, and they load what is written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.dialects.dcp.made import in_safetensors, run, same

pytestmark = pytest.mark.real_client
RANK = Path(__file__).with_name("dcp_rank.py")
# Neither 2 nor 4 divides 67, 33 and 18 rows; of 6 rows, the last of four ranks has none.
SIZES = {
    "hidden_size": 18, "intermediate_size": 33, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6, "vocab_size": 67,
    "num_hidden_layers": 2,
}  # fmt: skip
LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj": (18, 18), "self_attn.k_proj": (6, 18), "self_attn.v_proj": (6, 18), "self_attn.o_proj": (18, 18),
    "mlp.gate_proj": (33, 18), "mlp.up_proj": (33, 18), "mlp.down_proj": (18, 33),
    "input_layernorm": (18,), "post_attention_layernorm": (18,),
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "flat-whole": {},
    "flat-2": {"shards": 2},
    "nested-3": {"prefix": "model.", "shards": 3},
}
THEIRS = ("flat", "nested", "sharded", "consolidated", "both-ways")


def write_uneven(folder: Path) -> Path:
    """A Llama of which hardly a dimension divides, as a Hugging Face directory; answers `folder`."""
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False, **SIZES}
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (67, 18), "lm_head": (67, 18), "model.norm": (18,)}
    shapes |= {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in LAYER.items()}
    save_file({f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def run_world(size: int, arguments: list[str]) -> None:
    """Runs that many ranks, each a process; an AssertionError has the first one's words that failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK), *arguments],
            env={**os.environ, **world, "RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    try:
        for rank in ranks:
            said = rank.communicate(timeout=240)[1]
            assert rank.returncode == 0, said.decode()[-2000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the model, `hf`, and of `ours`: what is made of it."""
    folder = tmp_path_factory.mktemp("written")
    hf = write_uneven(folder / "hf")
    for name, stated in OURS.items():
        run({"format": "huggingface", "path": str(hf)}, {"format": "dcp", "path": str(folder / "ours" / name), **stated}, verify="digest")
    return folder


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_world_loads_what_is_written_and_what_it_saves_is_read(size: int, written: Path, tmp_path: Path) -> None:
    """Shards of ours are as many as the world's ranks, more and fewer; theirs are uneven, in every form that torch saves."""
    run_world(size, [str(written / "hf"), str(tmp_path), *[str(written / "ours" / name) for name in OURS]])
    hf = written / "hf"
    assert len(list((tmp_path / "nested").glob("*.distcp"))) == size
    for name in THEIRS:
        source = {"format": "dcp", "path": str(tmp_path / name), "config_dir": str(hf)}
        run(source, {"format": "huggingface", "path": str(tmp_path / "back" / name)}, verify="roundtrip")
        assert same(in_safetensors(hf), in_safetensors(tmp_path / "back" / name)), name
