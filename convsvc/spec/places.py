"""The two sides of a job, as far as all formats have them; the rest is in the formats' own classes (`formats`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Path, Strict, Text
from convsvc.spec.model import ARCHITECTURE, Architecture, Lora

Modules = Annotated[tuple[Literal["text_decoder"], ...], Field(min_length=1, max_length=1)]
MODULES = Field(
    None,
    description="The modules that are converted, of a model of several whose other modules nobody has declared: its text decoder, by the "
    "family that it is. The others are carried along as they are, for the way back.",
)
OWN_HEAD = Field(
    False,
    description="An output layer that is stored though config.json ties it to the embedding is the model's own; false: it must be equal to "
    "the embedding.",
)


class SourceSpec(Strict):
    """A checkpoint to read. A format's own class says which (`format: Literal[...]`)."""

    format: str
    path: Path


class ModelSource(SourceSpec):
    """A checkpoint that may hold adapters, and may leave sizes of its model unsaid."""

    lora: Lora | None = Field(None, description="The LoRA adapters in it or beside it, which are merged; {} where all of it is saved.")
    architecture: Architecture | None = ARCHITECTURE


class TargetSpec(Strict):
    """A checkpoint to write."""

    format: str
    path: Path


class Detected(SourceSpec):
    """A side of a comparison: a checkpoint whose format is found out where it lies. `format` may be left out."""

    format: Literal["detected"]
    iteration: Text | None = Field(None, max_length=200, description="Of rank files, instead of the one that the tracker names.")
    modules: Modules | None = Field(None, description="The modules that are compared, of a model of several: its text decoder.")
