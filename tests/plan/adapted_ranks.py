"""LoRA adapters beside the weights of rank files, as MindSpeed-LLM's training saves them: random, alike where ranks share them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import torch

TARGETS = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "linear_q_up_proj", "linear_kv_up_proj", "in_proj", "out_proj")
ROW_PARALLEL = ("linear_proj", "linear_fc2", "out_proj")


def add_adapters(root: Path, r: int, *, latent: bool = False, targets: tuple[str, ...] = TARGETS) -> int:
    """Give every target module in the rank files below `root` an A and a B; how many modules that are, ranks counted apart.

    `latent`: linear_qkv holds the down projections of latent attention, which every tensor rank has whole.
    """
    count = 0
    for path in sorted(root.rglob("*.pt")):
        t, *others = re.findall(r"\d+", path.parent.name)
        content = torch.load(path, weights_only=False)
        # A rank's name has its stage where there are stages, then its expert rank where there are several.
        stage = others.pop(0) if content["args"].pipeline_model_parallel_size > 1 else ""
        for key in [key for key in content if key.startswith("model")]:
            content[key], added = _adapted(content[key], f"{stage}:{key}", "".join(others), t, r, latent, targets)
            count += added
        torch.save(content, path)
    return count


def _adapted(
    weights: dict[str, torch.Tensor], stage: str, e: str, t: str, r: int, latent: bool, targets: tuple[str, ...]
) -> tuple[dict[str, torch.Tensor], int]:
    made: dict[str, torch.Tensor] = {}
    count = 0
    for name, weight in weights.items():
        module, _, last = name.rpartition(".")
        kind = module.rpartition(".")[2]
        if last != "weight" or kind not in targets or not isinstance(weight, torch.Tensor):
            made[name] = weight
            continue
        where = stage + (e if ".experts." in name else "")
        cut = "" if latent and kind == "linear_qkv" else t
        a_cut, b_cut = (cut, "") if kind in ROW_PARALLEL else ("", cut)
        made[f"{module}.base_layer.weight"] = weight
        made[f"{module}.lora_A.default.weight"] = _draw(f"A{where}{module}{a_cut}", (r, weight.shape[1]), weight.dtype)
        made[f"{module}.lora_B.default.weight"] = _draw(f"B{where}{module}{b_cut}", (weight.shape[0], r), weight.dtype)
        count += 1
    return made, count


def _draw(seed: str, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return (torch.randn(shape, generator=generator) * 0.2).to(dtype)
