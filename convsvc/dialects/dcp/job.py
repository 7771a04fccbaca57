"""What a job may say of a torch distributed checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Path, Size, Text
from convsvc.spec.model import ARCHITECTURE, Architecture
from convsvc.spec.places import MODULES, Modules, SourceSpec, TargetSpec

Prefix = Annotated[Text, Field(max_length=200)]


class DcpSource(SourceSpec):
    """A directory with `.metadata` and `.distcp` files, or one of safetensors that torch's HuggingFaceStorageWriter has sharded.

    FSDP2, torchtitan, MindSpeed-MM, accelerate and others save such. Names are Hugging Face's, under a prefix or none.
    """

    format: Literal["dcp"]
    prefix: Prefix | None = Field(
        None,
        description='What stands before the names of the weights, e.g. "model."; all that has other names is left out then. Without it, as '
        "the names show.",
    )
    config_dir: Path | None = Field(None, description="A directory with the model's config.json; without it, the checkpoint's own.")
    with_training_state: bool = Field(
        False, description='Read optimizer state and the like too, for model_type "tensors"; false: it is left out by its names.'
    )
    architecture: Architecture | None = ARCHITECTURE
    modules: Modules | None = MODULES


class DcpTarget(TargetSpec):
    """A directory with `.metadata` and `.distcp` files, which torch.distributed.checkpoint loads into any sharding."""

    format: Literal["dcp"]
    prefix: Prefix = Field("", description='What stands before the names of the weights, e.g. "model.".')
    config_dir: Path | None = Field(
        None, description="Its config, tokenizer and code go with the weights; without it, a Hugging Face source's own."
    )
    shards: Size = Field(
        1,
        description="Ranks over which the first dimension of every tensor is cut, a file each, as FSDP2 cuts it: a reader of a part reads "
        "whole pieces. 1: tensors are whole, a file a layer, or of options.max_shard_size.",
    )


SOURCE, TARGET = DcpSource, DcpTarget
