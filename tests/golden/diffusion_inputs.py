"""Inputs of the diffusion cases of MindSpeed-MM's corpus: published directories and files, rank files; what was written, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.golden.mindspeed_mm_corpus import Digest, Ranks, digest, draw, fixture, manifest


def write_published(name: str, seed: int, folder: Path) -> Path:
    """A fixture as its library publishes it: shards with an index, or the one file that it is."""
    made = fixture(name)
    folder.mkdir(parents=True)
    tensors = {each: draw(seed, each, *said) for each, said in made["tensors"].items()}
    if made["config"] is not None:
        (folder / "config.json").write_text(json.dumps(made["config"]))
    if made.get("bin"):
        torch.save({made["bin_root"]: tensors} if made.get("bin_root") else tensors, folder / made["bin"])
        return folder
    shards, stem = made.get("shards", 1), made["file_prefix"]
    if shards == 1:
        save_file(tensors, folder / f"{stem}.safetensors", {"format": "pt"})
        return folder
    size, where = -(-len(tensors) // shards), {}
    for at in range(shards):
        part = list(tensors)[at * size : (at + 1) * size]
        file = f"{stem}-{at + 1:05d}-of-{shards:05d}.safetensors"
        save_file({each: tensors[each] for each in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def write_ranks(layout: str, seed: int, folder: Path, iteration: str = "release") -> Path:
    """Rank files in a manifest's layout; parameters with equal digests there have equal values here. They hold a version only beside
    numbered chunks, as the source tool writes them."""
    names: dict[tuple[str, tuple[int, ...]], str] = {}
    for rank, models in sorted(manifest(layout)["ranks"].items()):
        top = {
            key: {
                name: draw(seed, names.setdefault((sha, tuple(shape)), f"{rank}/{key}/{name}"), dtype, shape)
                for name, (dtype, shape, sha) in parameters.items()
            }
            for key, parameters in sorted(models.items())
        }
        (folder / iteration / rank).mkdir(parents=True)
        torch.save(top, folder / iteration / rank / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text(iteration.removeprefix("iter_").lstrip("0") or iteration)
    return folder


def read_tops(folder: Path) -> tuple[Ranks, dict[str, set[str]]]:
    """Rank files as training loads them, and what else stands at their tops."""
    ranks: Ranks = {}
    others: dict[str, set[str]] = {}
    for file in sorted((folder / "release").glob("*/model_optim_rng.pt")):
        top = torch.load(file, weights_only=True)
        models = {key: value for key, value in top.items() if key.startswith("model")}
        ranks[file.parent.name] = {key: {name: digest(each) for name, each in held.items()} for key, held in models.items()}
        others[file.parent.name] = set(top) - set(models)
    return ranks, others


def read_published(folder: Path) -> dict[str, Digest]:
    """Every tensor of a directory, by the index where there is one: whoever loads it looks there."""
    index = next(iter(folder.glob("*.index.json")), None)
    if index is not None:
        where: Mapping[str, str] = json.loads(index.read_text())["weight_map"]
        files = {file: load_file(folder / file) for file in set(where.values())}
        assert {name for held in files.values() for name in held} == set(where)
        return {name: digest(files[file][name]) for name, file in where.items()}
    file = next(each for each in folder.iterdir() if each.suffix in (".safetensors", ".pt"))
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    return {name: digest(each) for name, each in tensors.items()}


def expected_tensors(case_id: str) -> dict[str, Digest]:
    """What a directory, or one file, was to hold."""
    found = manifest(case_id)
    held = found["state"] if "state" in found else {name: each for file in found["files"].values() for name, each in file.items()}
    return {name: (each[0], tuple(each[1]), each[2]) for name, each in held.items()}


def published_tensors(name: str, seed: int) -> dict[str, Digest]:
    """What a fixture holds."""
    return {each: digest(draw(seed, each, *said)) for each, said in fixture(name)["tensors"].items()}


def job(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": dict(source), "target": dict(target)}
