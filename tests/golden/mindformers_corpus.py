"""MindSpore Transformers' golden cases as values, and their inputs drawn from hashes; see mindformers/PROVENANCE.md."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.golden.corpus import Digest

ROOT = Path(__file__).with_name("mindformers")
STRATEGIES = ROOT / "strategies"
SPECIAL = (
    0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e6, -65519.0, 65520.0, 1e-40, 1.00390625, 1.01171875, 3.0e-8, 6.0e-8, 65504.0,
)  # fmt: skip
CASTS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class Case:
    """One golden case: `inputs` are names with dtype and shape, `expected` what the source tool wrote of it ([dtype, shape, sha256])."""

    id: str
    kind: str
    trust: str
    family: str
    seed: str
    sizes: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, list[int]]]
    ok: bool
    expected: Mapping[str, list[Any]] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ("part0.safetensors",)
    map: str = "nested"
    special: tuple[str, ...] = ()
    direction: str | None = None
    interleaved: bool = True
    target_tp: int = 1
    target_pp: int = 1
    strategy: str = ""
    world: int = 1
    suffixes: tuple[str, ...] = ()
    file_suffix: str = ""
    prefix: str = ""
    has_redundancy: bool = True
    flag: str | None = None
    filter: str | None = None
    adam: bool = False
    hyper: Mapping[str, Any] = field(default_factory=dict)
    rank_params: Mapping[str, list[str]] | None = None

    @property
    def digests(self) -> dict[str, Digest]:
        return {name: (entry[0], tuple(entry[1]), entry[2]) for name, entry in self.expected.items()}

    def tensor(self, name: str) -> torch.Tensor:
        dtype, shape = self.inputs[name]
        return draw(f"{self.seed}|{name}", dtype, shape, name in self.special)


@cache
def cases() -> tuple[Case, ...]:
    lines = gzip.decompress((ROOT / "cases.jsonl.gz").read_bytes()).decode().splitlines()
    return tuple(Case(**json.loads(line)) for line in lines)


def draw(text: str, dtype: str, shape: list[int], special: bool = False) -> torch.Tensor:
    """Two bytes of shake_256 an element: a number from -2 to 2, or below 1000 for integers."""
    words = np.frombuffer(hashlib.shake_256(text.encode()).digest(2 * prod(shape)), "<u2")
    if dtype == "I32":
        return torch.from_numpy(words.astype(np.int32) % 1000).reshape(shape)
    values = torch.from_numpy((words.astype(np.float32) - 32768) / 16384)
    if special:
        count = min(len(values), len(SPECIAL))
        values[:count] = torch.tensor(SPECIAL[:count])
    return values.to(CASTS[dtype]).reshape(shape)


def write_whole(case: Case, folder: Path) -> None:
    """A whole checkpoint: tensors dealt to files by their sorted names, and the map that the case has."""
    folder.mkdir()
    place = {name: case.files[at % len(case.files)] for at, name in enumerate(sorted(case.inputs))}
    for file in case.files:
        save_file({name: case.tensor(name) for name in place if place[name] == file}, folder / file, metadata={"format": "ms"})
    if case.map != "none":
        said = {"metadata": {"total_size": 0}, "weight_map": place} if case.map == "nested" else place
        (folder / "param_name_map.json").write_text(json.dumps(said))


def write_ranks(case: Case, folder: Path) -> None:
    """Rank directories, cut where MindSpore's own re-slicing cuts (mindspore_says.json.gz), and the real strategy files."""
    says = json.loads(gzip.decompress((ROOT / "mindspore_says.json.gz").read_bytes()))["slices"]
    stages = {name.split("/")[1]: boxes for name, boxes in says.items() if name.startswith(case.strategy + "/")}
    per_stage = case.world // len(stages)
    (folder / "strategy").mkdir(parents=True)
    for file in (STRATEGIES / case.strategy).iterdir():
        (folder / "strategy" / file.name).write_bytes(file.read_bytes())
    for rank in range(case.world):
        boxes = stages[f"ckpt_strategy_rank_{rank // per_stage * per_stage}.ckpt"]
        kept = set(boxes) & set(case.inputs) & set(case.inputs if case.rank_params is None else case.rank_params[str(rank)])
        held = {name: case.tensor(name)[tuple(map(slice, *boxes[name][1][rank % per_stage]))].contiguous() for name in sorted(kept)}
        held |= {name: torch.tensor(value, dtype=torch.int32) for name, value in case.hyper.items()}
        metadata = {"format": "ms", **({"remove_redundancy": case.flag} if case.flag else {})}
        place = folder / "checkpoint" / f"rank_{rank}"
        place.mkdir(parents=True)
        for suffix in case.suffixes:
            tensors = held if suffix == case.file_suffix else {name: each * 0 for name, each in held.items()}
            save_file(tensors, place / f"{case.prefix}_rank_{rank}-{suffix}.safetensors", metadata=metadata)
