"""What a conversion left behind, read with the formats' own libraries: torch.load and safetensors, not with code under test."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.golden.corpus import Digest, as_digest, digest
from tests.golden.megatron_inputs import TRACKER

# A reader takes a directory with one of these for a finished checkpoint.
COMPLETE = (TRACKER, "model.safetensors", "pytorch_model.bin", ".metadata", "param_name_map.json")


@dataclass(frozen=True, slots=True)
class Megatron:
    """A Megatron checkpoint: every tensor by "rank directory/model key/parameter", and what stands beside them."""

    tensors: dict[str, Digest]
    ranks: tuple[str, ...]
    iterations: tuple[str, ...]
    tracker: str | None


def read_megatron(directory: Path) -> Megatron:
    tensors: dict[str, Digest] = {}
    files = sorted(directory.glob("*/*/model_optim_rng.pt"))
    for file in files:
        content = load_rank_file(file)
        for key, parameters in content.items():
            if key.startswith("model"):
                tensors |= {f"{file.parent.name}/{key}/{name}": digest(each) for name, each in parameters.items() if each is not None}
    tracker = directory / TRACKER
    ranks = tuple(sorted({file.parent.name for file in files}))
    iterations = tuple(sorted({file.parent.parent.name for file in files}))
    return Megatron(tensors, ranks, iterations, tracker.read_text().strip() if tracker.exists() else None)


def load_rank_file(file: Path) -> dict[str, Any]:
    """As training loads it: nothing in the pickle may run."""
    with torch.serialization.safe_globals([Namespace]):
        return dict(torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def expected_megatron(manifest: dict[str, Any]) -> Megatron:
    tensors = {
        f"{rank}/{key}/{name}": as_digest(entry)
        for rank, models in manifest["ranks"].items()
        for key, parameters in models.items()
        for name, entry in parameters.items()
    }
    return Megatron(tensors, tuple(sorted(manifest["ranks"])), tuple(manifest["iter_dirs"]), manifest["latest_checkpointed_iteration"])


def read_huggingface(directory: Path) -> dict[str, Digest]:
    """All tensors of a directory's safetensors files; where there are several, the index names exactly them."""
    tensors: dict[str, Digest] = {}
    held_by: dict[str, str] = {}
    files = sorted(directory.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                assert name not in tensors, f"{name} lies in {held_by[name]} and in {file.name}"
                tensors[name], held_by[name] = digest(opened.get_tensor(name)), file.name
    index = directory / "model.safetensors.index.json"
    assert index.exists() or len(files) < 2, f"{len(files)} files and no index"
    if index.exists():
        assert json.loads(index.read_text())["weight_map"] == held_by
    return tensors


def expected_huggingface(manifest: dict[str, Any]) -> dict[str, Digest]:
    return {name: as_digest(entry) for tensors in manifest["files"].values() for name, entry in tensors.items()}


def what_looks_complete(directory: Path) -> list[str]:
    if not directory.exists():
        return []
    names = (path for path in directory.rglob("*") if path.is_file())
    return [str(path.relative_to(directory)) for path in names if path.name in COMPLETE or path.name.endswith(".index.json")]


def differences(want: dict[str, Digest], have: dict[str, Digest]) -> list[str]:
    """One line a differing tensor; says whose content it has, which shows swapped layers and ranks at once."""
    names = {each[2]: name for name, each in want.items()}
    lines = [f"missing {name}" for name in want if name not in have]
    lines += [f"not asked for: {name}" for name in have if name not in want]
    for name in want.keys() & have.keys():
        if want[name] != have[name]:
            lines.append(f"{name}: {want[name][:2]} expected, {have[name][:2]} written, content of {names.get(have[name][2], 'no other')}")
    return sorted(lines)[:12]


def file_states(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file's size, modification time and content."""
    files = (path for path in directory.rglob("*") if path.is_file()) if directory.exists() else ()
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes()) for path in files}
