"""What a job may say of a toy checkpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from convsvc.spec.places import ModelSource, TargetSpec


class ToySource(ModelSource):
    """A directory with words.txt and a file a layer."""

    format: Literal["toy"]


class ToyTarget(TargetSpec):
    """A directory with words.txt and a file a layer."""

    format: Literal["toy"]
    inputs_first: bool = Field(True, description="Matrices lie [in, out]; false: [out, in].")
    files: Literal["safetensors", "toybox"] = Field("safetensors", description="What kind of file each layer is.")


SOURCE, TARGET = ToySource, ToyTarget
