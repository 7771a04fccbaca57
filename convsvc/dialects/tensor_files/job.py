"""What a job may say of files that are nothing but tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from convsvc.spec.fields import Path
from convsvc.spec.naming import Naming
from convsvc.spec.places import SourceSpec, TargetSpec


class TensorFilesSource(SourceSpec, Naming):
    """A directory of safetensors files, or one file, which may be torch's (.pt): for model_type "tensors". No config.json is needed."""

    format: Literal["tensor-files"]


class TensorFilesTarget(TargetSpec, Naming):
    """A directory of safetensors files with an index, and a copy of what lies beside another directory's weights."""

    format: Literal["tensor-files"]
    assets_dir: Path | None = Field(
        None, description="Its configuration, tokenizer and code are copied as they are, whether or not they describe what is written."
    )


SOURCE, TARGET = TensorFilesSource, TensorFilesTarget
