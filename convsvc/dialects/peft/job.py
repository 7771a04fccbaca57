"""What a job may say of a PEFT adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from convsvc.spec.fields import Path
from convsvc.spec.model import ARCHITECTURE, Architecture
from convsvc.spec.places import SourceSpec, TargetSpec


class PeftSource(SourceSpec):
    """A directory with adapter_config.json and adapter_model.safetensors or .bin: LoRA adapters, to be merged into their base model."""

    format: Literal["peft"]
    base_path: Path | None = Field(
        None, description="The Hugging Face directory they belong to; without it, the one that adapter_config.json names, if it is there."
    )
    architecture: Architecture | None = ARCHITECTURE


class PeftTarget(TargetSpec):
    """The source's LoRA adapters alone, as PEFT loads them beside their base model."""

    format: Literal["peft"]
    config_dir: Path | None = Field(None, description="Not copied: an adapter is loaded beside its base model, which has these files.")


SOURCE, TARGET = PeftSource, PeftTarget
