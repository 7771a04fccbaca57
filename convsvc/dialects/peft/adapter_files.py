"""A PEFT adapter directory: adapter_model.safetensors and adapter_config.json (peft/utils/constants.py, peft 0.21)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from convsvc.dialects.layout import Layout
from convsvc.dialects.output import NewFile, Output, SideFile
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.notes import Note

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """What adapter_config.json says beside the constants: rank, alpha, how they scale, and which modules have adapters."""

    r: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]


def adapter_output(layout: Layout, specs: list[TensorSpec], adapter: Adapter, config_dir: str | None) -> tuple[Layout, Output]:
    """The directory's files. PEFT reads one weight file; without an index there is nothing to split."""
    skeleton = safetensors.plan_skeleton(specs, {"format": "pt"})
    notes = [Note("ignored", "only the LoRA adapters are written, for PEFT: the base model's weights are left out")]
    if config_dir is not None:
        notes.append(Note("advice", f"{config_dir} is not copied: an adapter is loaded beside its base model, which has these files"))
    config = SideFile(CONFIG, text=json.dumps(_config(adapter), indent=2) + "\n", last=True)
    placed = tuple(entry._replace(file=WEIGHTS) for entry in layout.entries)
    return replace(layout, entries=placed), Output((NewFile(WEIGHTS, "safetensors", 0),), (skeleton,), (config,), tuple(notes))


def _config(adapter: Adapter) -> dict[str, object]:
    whole = int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.r,
        "lora_alpha": whole,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": adapter.use_rslora,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(adapter.target_modules),
    }
