"""What a job may say of a published diffusion model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Path, Text
from convsvc.spec.places import SourceSpec, TargetSpec

Form = Annotated[Text, Field(max_length=40)]


class DiffusersSource(SourceSpec):
    """A directory with safetensors or torch files and perhaps a config.json, or one such file: a diffusion transformer.

    Which model it is, and in which form, its tensors' names show; their shapes show its sizes.
    """

    format: Literal["diffusers"]
    remove_pos_emb: bool = Field(
        False, description="Leave out tables of positions that were saved with the weights and that training computes (CogVideoX)."
    )


class DiffusersTarget(TargetSpec):
    """A directory with diffusion_pytorch_model*.safetensors, as diffusers loads it; or one file."""

    format: Literal["diffusers"]
    form: Form | None = Field(
        None,
        description="Whose names the tensors get: hf_diffusers, original (its authors'), or another of the model's page; without it, the "
        "first of these.",
    )
    file_name: Annotated[Text, Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(safetensors|pt|pth|bin)$")] | None = Field(
        None, description="All tensors in one file of this name: .safetensors, or a torch file (.pt, .pth, .bin)."
    )
    before_names: Annotated[Text, Field(max_length=200)] | None = Field(
        None, description='What stands before all names, e.g. "base_model.model.", as PEFT has it.'
    )
    config_dir: Path | None = Field(None, description="Its configuration goes with the weights; without it, a published source's own.")


SOURCE, TARGET = DiffusersSource, DiffusersTarget
