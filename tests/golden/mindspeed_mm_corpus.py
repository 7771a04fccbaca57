"""The golden corpus of MindSpeed-MM as values: cases, manifests, and the inputs rebuilt from hashes; mindspeed_mm/PROVENANCE.md."""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

FILE = Path(__file__).parent / "mindspeed_mm" / "corpus.json.xz"
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "i64": torch.int64}
TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
DIGITS = 16
# dtype tag, shape, the first digits of the sha256
Digest = tuple[str, tuple[int, ...], str]
# rank directory -> model key -> parameter
Ranks = dict[str, dict[str, dict[str, Digest]]]


@dataclass(frozen=True, slots=True)
class Case:
    """What a converter was asked for; `said` is the whole record."""

    id: str
    converter: str
    subcommand: str
    verdict: str
    said: Mapping[str, Any]

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The commands, one after the other; one, unless it is a roundtrip."""
        return list(self.said.get("steps") or [self.said])


@cache
def _corpus() -> dict[str, Any]:
    return dict(json.loads(lzma.decompress(FILE.read_bytes())))


@cache
def cases() -> tuple[Case, ...]:
    return tuple(Case(each["id"], each["converter"], each["subcommand"], each["verdict"], each) for each in _corpus()["cases"])


def manifest(case_id: str) -> dict[str, Any]:
    """What was written for a case; for one with a correction, what would have been right. Raises KeyError."""
    corrected = next((case.said.get("corrected") for case in cases() if case.id == case_id), None)
    found = _corpus()["manifests"][corrected.removesuffix(".json") if corrected else case_id]
    return dict(found.get("output", found))


def fixture(name: str) -> dict[str, Any]:
    return dict(_corpus()["fixtures"][name])


def draw(seed: int, name: str, dtype: str, shape: list[int]) -> torch.Tensor:
    """The tensor of a name: 16 bits of shake_256 an element, floats in [-2, 2)."""
    stream = hashlib.shake_256(f"{seed}\x00{name}".encode()).digest(2 * prod(shape))
    drawn = np.frombuffer(stream, dtype="<u2").astype(np.int32)
    values = (drawn - 32768).astype(np.float32) / np.float32(16384.0) if dtype != "i64" else drawn % 101
    return torch.from_numpy(values).to(DTYPES[dtype]).reshape(shape).contiguous()


def digest(tensor: torch.Tensor) -> Digest:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return TAGS[tensor.dtype], tuple(tensor.shape), hashlib.sha256(data).hexdigest()[:DIGITS]


def write_input(given: Mapping[str, Any], directory: Path) -> Path:
    """An input of a case, and what is given as it: the directory, or a file in it. Nothing is written for one that is missing."""
    if given["kind"] == "hf":
        _write_huggingface(given, directory)
    elif given["kind"] == "mm":
        _write_ranks(given, directory)
    elif given["kind"] == "dir":
        for name, text in given["files"].items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    elif given["kind"] != "missing":
        raise ValueError(f"an input of kind {given['kind']} is written elsewhere")
    return directory / given.get("file", "")


def _write_huggingface(given: Mapping[str, Any], directory: Path) -> None:
    made = fixture(given["fixture"])
    directory.mkdir(parents=True)
    shapes = {**made["tensors"], **given.get("add", {})}
    names = [name for name in shapes if not any(re.search(pattern, name) for pattern in given.get("drop", ()))]
    config = given.get("config") or {**(made.get("config") or {}), **given.get("config_patch", {})}
    if config:
        (directory / "config.json").write_text(json.dumps(config, indent=2))
    for name, text in made.get("extra_files", {}).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    shards = made.get("shards", 1)
    size, where, prefix = -(-len(names) // shards), {}, made.get("file_prefix", "model")
    if one := given.get("override", {}).get("bin"):
        torch.save({name: draw(given.get("seed", 0), name, *shapes[name]) for name in names}, directory / one)
        return
    for at in range(shards):
        part = names[at * size : (at + 1) * size]
        file = f"{prefix}.safetensors" if shards == 1 else f"{prefix}-{at + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: draw(given.get("seed", 0), name, *shapes[name]) for name in part}, directory / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    if made.get("index", True):
        (directory / f"{prefix}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for name, text in given.get("touch", {}).items():
        (directory / name).write_text(text)


def _write_ranks(given: Mapping[str, Any], directory: Path) -> None:
    """Rank files in a manifest's layout: parameters with equal digests there have equal values here."""
    names: dict[tuple[str, tuple[int, ...]], str] = {}
    iteration = given.get("iteration", "release")
    folder = directory / (iteration if isinstance(iteration, str) else f"iter_{iteration:07d}")
    for rank, models in sorted(manifest(given["layout"])["ranks"].items()):
        top: dict[str, Any] = {"checkpoint_version": 3.0, **given.get("extra", {})}
        for key, parameters in sorted(models.items()):
            top[key] = {
                name: draw(given.get("seed", 1), names.setdefault((sha, tuple(shape)), f"{rank}/{key}/{name}"), dtype, shape)
                for name, (dtype, shape, sha) in parameters.items()
            }
        (folder / rank).mkdir(parents=True)
        torch.save(top, folder / rank / "model_optim_rng.pt")
    (directory / "latest_checkpointed_iteration.txt").write_text(given.get("latest_text", str(iteration)))


def read_ranks(directory: Path) -> Ranks:
    """Rank files as training loads them."""
    iteration = (directory / "latest_checkpointed_iteration.txt").read_text()
    folder = iteration if iteration == "release" else f"iter_{int(iteration):07d}"
    ranks: Ranks = {}
    for file in sorted((directory / folder).glob("*/model_optim_rng.pt")):
        top = torch.load(file, weights_only=True)
        models = {key: value for key, value in top.items() if key.startswith("model")}
        ranks[file.parent.name] = {key: {name: digest(each) for name, each in held.items()} for key, held in models.items()}
    return ranks


def expected_ranks(found: Mapping[str, Any]) -> Ranks:
    return {
        rank: {key: {name: (each[0], tuple(each[1]), each[2]) for name, each in held.items() if each} for key, held in models.items()}
        for rank, models in found["ranks"].items()
    }


def read_tensors(directory: Path) -> dict[str, Digest]:
    """All tensors of a Hugging Face directory."""
    return {name: digest(each) for file in sorted(directory.glob("*.safetensors")) for name, each in load_file(file).items()}


def expected_tensors(found: Mapping[str, Any]) -> dict[str, Digest]:
    files = found["files"].values() if "files" in found else [found["tensors"]]
    return {name: (each[0], tuple(each[1]), each[2]) for held in files for name, each in held.items()}
