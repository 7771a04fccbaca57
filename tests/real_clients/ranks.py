"""Ranks of a world, each a program of its own on this machine's CPUs: what they answered, together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

TIMEOUT_S = 240
# Where megatron-core 0.19 lies, beside the one that is installed.
NEWEST = "CONVSVC_MEGATRON_CORE"


def values_of(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The whole tensor of a key, random and the same in every process: what a rank has of it is a box of this."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(crc32(key.encode()))) * 0.3 + 0.1


@dataclass(frozen=True, slots=True)
class World:
    """What every rank answered, and transformers' logits, by trial; `folder` holds each trial's source and what Megatron saved."""

    folder: Path
    answers: tuple[dict[str, Any], ...]
    expected: dict[str, torch.Tensor]


def megatron_core(which: str) -> str | None:
    """The directory in which ranks find the "newest" core; None for the "installed" one. Skips what asks for one that is not there."""
    pytest.importorskip("megatron.core", reason="pip install megatron-core==0.16.1", exc_type=ImportError)
    path = None if which == "installed" else os.environ.get(NEWEST)
    if which == "newest" and path is None:
        pytest.skip(f"make newest-megatron-core, and {NEWEST}=.megatron-core: megatron-core 0.19 beside the one that is installed")
    return path


def run_world(
    program: Path, size: int, tasks: list[dict[str, Any]], folder: Path, modules: str | None = None
) -> tuple[dict[str, Any], ...]:
    """Start `size` ranks of the program, wait for all, end those that are left when one fails.

    Modules are looked for in the directory `modules` before all others. What Python compiles is kept: half of a rank's time is imports.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | ({} if modules is None else {"PYTHONPATH": str(Path(modules).resolve())})
    (folder / "tasks.json").write_text(json.dumps(tasks))
    results = [folder / f"results-{rank}.json" for rank in range(size)]
    arguments = [str(size), str(folder / "meeting"), str(folder / "tasks.json")]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), *arguments, str(results[rank])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        for rank in range(size)
    ]
    try:
        for rank in ranks:
            said, _ = rank.communicate(timeout=TIMEOUT_S)
            assert rank.returncode == 0, said.decode(errors="replace")[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    return tuple(json.loads(result.read_text()) for result in results)
