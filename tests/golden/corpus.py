"""The golden corpus as values: its cases, what the source tool wrote, and the Hugging Face inputs rebuilt from hashes.

No weights are stored. A tensor's bytes are shake_128 of a text that names it, with the exponent's highest bit cleared so that every
float is finite; an expectation is (dtype tag, shape, sha256 of the row-major bytes). PROVENANCE.md says where it all comes from.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent / "mindspeed_llm"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I64": torch.int64}
TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
# The byte and bit that hold the highest exponent bit: without it |value| < 2, never inf or NaN.
MASKED_BYTE = {"BF16": (2, 1), "F16": (2, 1), "F32": (4, 3)}

Digest = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Case:
    """One conversion that the source tool was asked for. `args` are its flags without dashes; `trust` says what its result is worth."""

    id: str
    family: str
    fixture: str
    direction: str
    trust: str
    args: Mapping[str, Any]
    args_back: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    quirk: str | None = None
    expected: bool = False

    @property
    def family_flag(self) -> str:
        return str(self.args.get("model-type-hf") or self.family)


@cache
def cases() -> tuple[Case, ...]:
    return tuple(Case(**each) for each in json.loads((ROOT / "cases.json").read_text()))


@cache
def _manifests() -> dict[str, str]:
    with gzip.open(ROOT / "manifests.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {line[len('{"id":"') : line.index('"', len('{"id":"'))]: line for line in lines}


def manifest(case_id: str) -> dict[str, Any]:
    """What the source tool wrote for a case. Raises KeyError where the corpus does not have it."""
    return dict(json.loads(_manifests()[case_id]))


def fixture(name: str) -> dict[str, Any]:
    """A Hugging Face checkpoint as its configuration and its tensors' dtypes and shapes."""
    return dict(json.loads((ROOT / "fixtures" / f"{name}.json").read_text()))


def draw(text: str, dtype: str, shape: tuple[int, ...] | list[int], below: int = 1 << 15) -> torch.Tensor:
    """The tensor that `text` names; integers are smaller than `below`.

    >>> draw("a", "BF16", [1]).abs().item() < 2
    True
    >>> draw("a", "I64", [1], below=1).item()
    0
    """
    if dtype == "I64":
        words = np.frombuffer(hashlib.shake_128(text.encode()).digest(prod(shape) * 8), "<u8") % np.uint64(below)
        return torch.from_numpy(words.astype(np.int64)).reshape(tuple(shape))
    width, byte = MASKED_BYTE[dtype]
    raw = bytearray(hashlib.shake_128(text.encode()).digest(prod(shape) * width))
    flat = torch.frombuffer(raw, dtype=torch.uint8)
    flat[byte::width] &= 0xBF
    return flat.view(DTYPES[dtype]).reshape(tuple(shape))


def digest(tensor: torch.Tensor) -> Digest:
    """How expectations describe a tensor."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return TAGS[tensor.dtype], tuple(tensor.shape), hashlib.sha256(data).hexdigest()


def as_digest(entry: list[Any]) -> Digest:
    return entry[0].upper(), tuple(entry[1]), entry[2]


def source_tensors(source: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a fixture, those left out of its files too; what has an alias holds the same as that."""
    alias, below = source.get("alias", {}), source.get("int_mod", 1 << 15)
    for name, (dtype, shape) in source["tensors"].items():
        yield name, draw(f"{source['seed']}|{alias.get(name, name)}", dtype, shape, below)


def write_huggingface(source: Mapping[str, Any], directory: Path) -> None:
    """Write a fixture: config.json, and shards with their index as the fixture says."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(source["config"]))
    is_bin = source.get("format") == "bin"
    stem, suffix = ("pytorch_model", "bin") if is_bin else ("model", "safetensors")
    shards = _shards(source)
    numbered = [f"{stem}-{at:05d}-of-{len(shards):05d}.{suffix}" for at in range(1, len(shards) + 1)]
    names = [f"{stem}.{suffix}"] if source.get("no_index") else numbered
    for name, shard in zip(names, shards, strict=True):
        if is_bin:
            torch.save(shard, directory / name)
        else:
            save_file(shard, directory / name, metadata={"format": "pt"})
    if not source.get("no_index") and not source.get("omit_index"):
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _shards(source: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Runs of tensors of about equal bytes, in the listed order, but for those that have a place of their own."""
    count, placed = source.get("shards", 1), source.get("placement", {})
    total = sum(prod(shape) * DTYPES[dtype].itemsize for dtype, shape in source["tensors"].values())
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    before = 0
    for name, tensor in source_tensors(source):
        if name not in source.get("drop", ()):
            shards[placed[name] - 1 if name in placed else min(count - 1, before * count // total)][name] = tensor
        before += tensor.nbytes
    return shards


def command_line(given: Mapping[str, Any], stand_ins: Mapping[str, Path]) -> list[str]:
    """Flags and their values; a corpus names directories by stand-ins, such as `<HF>`."""
    argv: list[str] = []
    for name, value in given.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        argv += [f"--{name}", *(str(stand_ins.get(str(each), each)) for each in values)]
    return argv
