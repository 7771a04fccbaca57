"""Real clients: what worlds of processes save with fully_shard (FSDP2) is read, and they load what is written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.dialects.dcp.made import in_safetensors, run, same
from tests.tiny_checkpoints import write_llama

RANK = Path(__file__).with_name("dcp_rank.py")


def run_world(size: int, *arguments: str) -> None:
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
    for rank in ranks:
        said = rank.communicate(timeout=240)[1]
        assert rank.returncode == 0, said.decode()[-2000:]


def test_three_ranks_save_what_is_read_and_load_what_is_written(tmp_path: Path) -> None:
    """Three divide neither 64 rows nor 16 nor 8; and the four shards that they load are not theirs."""
    hf = write_llama(tmp_path / "hf")
    run_world(3, "save", str(tmp_path / "saved"), str(hf))
    assert len(list((tmp_path / "saved").glob("*.distcp"))) == 3
    source = {"format": "dcp", "path": str(tmp_path / "saved"), "config_dir": str(hf)}
    run(source, {"format": "huggingface", "path": str(tmp_path / "back")}, verify="roundtrip")
    assert same(in_safetensors(hf), in_safetensors(tmp_path / "back"))
    run(source, {"format": "dcp", "path": str(tmp_path / "dcp"), "prefix": "model.", "shards": 4}, verify="roundtrip")
    run_world(3, "load", str(tmp_path / "dcp"), str(hf))
