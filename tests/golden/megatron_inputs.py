"""Megatron checkpoints that no converter wrote: a manifest's layout, filled with values drawn from the digests it gives.

Shards that were equal (replicas, tied weights) stay equal, all others differ, so the way back is judged without any way there.
"""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.golden.corpus import DTYPES, draw

TRACKER = "latest_checkpointed_iteration.txt"
COLUMN_PARALLEL = ("linear_qkv", "linear_fc1", "linear_q_up_proj", "linear_kv_up_proj")
# rank directory -> model key ("model", "model0") -> parameter -> tensor
Ranks = dict[str, dict[str, dict[str, torch.Tensor]]]


def write_megatron(manifest: Mapping[str, Any], given: Mapping[str, Any], directory: Path, lora_directory: Path) -> None:
    """Write the input that a case's `given` describes; adapters of an independent kind go to `lora_directory`."""
    weights = {rank: {key: _drawn(each) for key, each in models.items()} for rank, models in manifest["ranks"].items()}
    lora = given.get("lora")
    if not lora:
        _save(manifest, weights, directory, given)
        return
    adapters = _adapters(manifest, lora)
    if lora["mode"] == "unified":
        _save(manifest, _with_adapters(weights, adapters), directory, {})
        return
    _save(manifest, weights, directory, {})
    _save(manifest, adapters if lora["mode"] == "independent_lora_only" else _with_adapters(weights, adapters), lora_directory, {})


def _drawn(parameters: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: draw("mg|" + sha, dtype, shape) for name, (dtype, shape, sha) in parameters.items()}


def _save(manifest: Mapping[str, Any], ranks: Ranks, directory: Path, given: Mapping[str, Any]) -> None:
    iteration = given.get("iteration") or manifest["latest_checkpointed_iteration"]
    folder = f"iter_{int(iteration):07d}" if iteration.isdigit() else iteration
    saved = int(iteration) if iteration.isdigit() else manifest["iteration"]
    directory.mkdir()
    (directory / TRACKER).write_text(iteration)
    for rank, models in ranks.items():
        (directory / folder / rank).mkdir(parents=True)
        content = {"checkpoint_version": manifest["checkpoint_version"], "iteration": saved, **models}
        if "args" in manifest and not given.get("drop_args"):
            content["args"] = _args(manifest["args"], given.get("args_patch", {}))
        if given.get("extra"):
            content |= _what_training_adds(models)
        torch.save(content, directory / folder / rank / "model_optim_rng.pt")


def _args(saved: Mapping[str, Any], patch: Mapping[str, Any]) -> Namespace:
    merged = {**saved, **patch}
    return Namespace(**{name: value for name, value in merged.items() if value != "__delete__"})


def _what_training_adds(models: Mapping[str, dict[str, torch.Tensor]]) -> dict[str, Any]:
    extra: dict[str, Any] = {"optimizer": {"state": {}}, "rng_state": [{"random_rng_state": None}], "opt_param_scheduler": {"max_lr": 1e-5}}
    for key, parameters in models.items():
        states = {name.removesuffix("weight") + "_extra_state": None for name in parameters if re.search(r"linear_\w+\.weight$", name)}
        extra[key] = {**parameters, **states}
    return extra


def _with_adapters(weights: Ranks, adapters: Ranks) -> Ranks:
    """The checkpoint as peft leaves it: adapted layers hold base_layer.weight beside lora_A and lora_B."""
    merged: Ranks = {}
    for rank, models in weights.items():
        merged[rank] = {}
        for key, parameters in models.items():
            adapted = {name.partition(".lora_")[0] for name in adapters[rank][key]}
            renamed = {_base_name(name, adapted): tensor for name, tensor in parameters.items()}
            merged[rank][key] = renamed | adapters[rank][key]
    return merged


def _base_name(name: str, adapted: set[str]) -> str:
    stem = name.removesuffix(".weight")
    return f"{stem}.base_layer.weight" if stem in adapted else name


def _adapters(manifest: Mapping[str, Any], lora: Mapping[str, Any]) -> Ranks:
    return {rank: {key: _adapters_of(manifest, lora, rank, key) for key in models} for rank, models in manifest["ranks"].items()}


def _adapters_of(manifest: Mapping[str, Any], lora: Mapping[str, Any], rank: str, key: str) -> dict[str, torch.Tensor]:
    adapters: dict[str, torch.Tensor] = {}
    t, p, e = _coordinates(rank, manifest)
    for name, (dtype, shape, _) in manifest["ranks"][rank][key].items():
        match = re.fullmatch(r"(.*\.(\w+))\.weight", name)
        if not match or match[2] not in lora["targets"] or len(shape) != 2:
            continue
        expert = ".experts." in name
        part = "-" if _is_replicated(manifest, name, key, (p, e if expert else None)) else str(t)
        a_part, b_part = ("-", part) if match[2] in COLUMN_PARALLEL else (part, "-")
        scope = f"{p}:{key}:{e if expert else '-'}:{match[1]}"
        adapters[match[1] + ".lora_A.default.weight"] = _eighths(f"loraA|{scope}|{a_part}", dtype, (lora["r"], shape[1]))
        adapters[match[1] + ".lora_B.default.weight"] = _eighths(f"loraB|{scope}|{b_part}", dtype, (shape[0], lora["r"]))
    return adapters


def _is_replicated(manifest: Mapping[str, Any], name: str, key: str, where: tuple[int, int | None]) -> bool:
    """Whether all ranks of the stage (and, for an expert, of its expert rank) hold the same content."""
    contents = set()
    for rank, models in manifest["ranks"].items():
        _, p, e = _coordinates(rank, manifest)
        if p == where[0] and where[1] in (None, e) and name in models.get(key, {}):
            contents.add(models[key][name][2])
    return len(contents) == 1


def _coordinates(rank: str, manifest: Mapping[str, Any]) -> tuple[int, int, int]:
    """mp_rank_TT[_PPP][_EEE] -> (t, p, e); the pipeline part is there iff pp > 1."""
    t, *rest = (int(number) for number in rank.removeprefix("mp_rank_").split("_"))
    if len(rest) == 2:
        return t, rest[0], rest[1]
    is_stage = manifest["args"]["pipeline_model_parallel_size"] > 1
    only = rest[0] if rest else 0
    return (t, only, 0) if is_stage else (t, 0, only)


def _eighths(text: str, dtype: str, shape: tuple[int, int]) -> torch.Tensor:
    """Multiples of 1/8 from -1/4 to 1/4, so that B @ A is exact in float32 whatever the order of the sum."""
    raw = torch.frombuffer(bytearray(hashlib.shake_128(text.encode()).digest(shape[0] * shape[1])), dtype=torch.uint8)
    return ((raw % 5).to(torch.float32).sub(2).div(8)).to(DTYPES[dtype]).reshape(shape)
