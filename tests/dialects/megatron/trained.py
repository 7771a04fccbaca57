"""Distributed checkpoints as training saves them, optimizer and all, for tests: with torch's own classes and torch.save."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch

from tests.dialects.dcp.made import Piece, whole, write_dcp
from tests.dialects.megatron.test_megatron import Tensors, keys_of

KINDS = ("param", "exp_avg", "exp_avg_sq")
GROUP = {
    "wd_mult": 1.0,
    "lr_mult": 1.0,
    "is_expert_parallel": False,
    "is_decoupled_lr": False,
    "lr": 1.25e-4,
    "betas": (0.9, 0.95),
    "step": 7,
}
SCHEDULE = {"max_lr": 1e-3, "lr_warmup_steps": 0.0, "num_steps": 56, "lr_decay_style": "cosine", "max_weight_decay": 0.1}
Cut = Callable[[str, tuple[int, ...]], list[Piece]]


def words_of(sharding: str | None = "fully_reshardable", **more: Any) -> dict[str, Any]:
    """An optimizer's words as core 0.16.1 has them in common.pt."""
    groups = [GROUP, {**GROUP, "wd_mult": 0.0}]
    return {"optimizer": {"param_groups": groups}, **({"param_state_sharding_type": sharding} if sharding else {}), **more}


def states_of(keys: Tensors, kinds: tuple[str, ...] = KINDS) -> Tensors:
    """State of every weight, each element another number: by the keys of core 0.15 and later."""
    torch.manual_seed(11)
    return {f"optimizer.state.{kind}.{name}": torch.randn(each.shape) for kind in kinds for name, each in keys.items()}


def train(
    folder: Path,
    target: Path,
    *,
    keys: Tensors | None = None,
    optimizer: Mapping[Any, Any] | None = None,
    change: Callable[[Tensors], Tensors] = dict,
    cut: Cut = whole,
    **words: Any,
) -> tuple[Path, Tensors]:
    """The checkpoint in `folder` as training saves it in iteration 7, and its tensors before they were `change`d; of other `keys`."""
    keys = keys or keys_of(folder)
    tensors = {**keys, **states_of(keys)}
    write_dcp(target, change(tensors), cut)
    common = torch.load(folder / "common.pt", weights_only=False)
    common["args"].consumed_train_samples = 56
    common |= {"iteration": 7, "optimizer": optimizer or words_of(), "opt_param_scheduler": SCHEDULE, **words}
    torch.save(common, target / "common.pt")
    shutil.copy(folder / "metadata.json", target / "metadata.json")
    return target, tensors


def in_fragments(tensors: Tensors, counts: Callable[[str, tuple[int, ...]], tuple[int, ...]], before: str = "") -> Tensors:
    """As core before 0.15 saves state: by fragments [X, Y] -> [X / x, Y / y, x * y], main weights as fp32_param."""
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith("optimizer."):
            found[name] = tensor
            continue
        held = counts(name.split(".", 3)[3], tuple(tensor.shape))
        sizes = [size // count for size, count in zip(tensor.shape, held, strict=True)]
        flat = torch.empty(*held, prod(sizes))
        for index in product(*map(range, held)):
            box = tuple(slice(at * size, (at + 1) * size) for at, size in zip(index, sizes, strict=True))
            flat[index] = tensor[box].reshape(-1)
        found[before + name.replace(".state.param.", ".state.fp32_param.")] = flat
    return found


def moved(tensors: Tensors, stacked: bool) -> Tensors:
    """Of keys that are of each layer those that are of all, or the other way round: by hand."""
    found: dict[str, Any] = {}
    for name, each in tensors.items():
        before, middle, rest = name.partition("decoder.layers.")
        number, _, key = rest.partition(".")
        if not middle or number.isdigit() is not stacked:
            found[name] = each
        elif stacked:
            found.setdefault(f"{before}decoder.layers.{key}", {})[int(number)] = each
        else:
            found |= {f"{before}decoder.layers.{layer}.{rest}": part for layer, part in enumerate(each)}
    return {name: torch.stack([each[at] for at in sorted(each)]) if isinstance(each, dict) else each for name, each in found.items()}
