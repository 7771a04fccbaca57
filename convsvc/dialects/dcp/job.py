"""What a job may say of a torch distributed checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Path, Size, Text
from convsvc.spec.model import ARCHITECTURE, Architecture
from convsvc.spec.naming import Beginning, Naming
from convsvc.spec.places import MODULES, Modules, SourceSpec, TargetSpec

Prefix = Annotated[Text, Field(max_length=200)]


class DcpSource(SourceSpec, Naming):
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
    like_dir: Path | None = Field(
        None,
        description="A Hugging Face directory of the same model: what the checkpoint has beyond its weights' names is left out, with a "
        "note; what it lacks is an error. Experts are not looked at.",
    )
    fill_beginning: Beginning | None = Field(
        None, description='With like_dir: weights whose names begin so, and that the checkpoint lacks, are taken from there, e.g. "mtp.".'
    )
    architecture: Architecture | None = ARCHITECTURE
    modules: Modules | None = MODULES


class DcpTarget(TargetSpec, Naming):
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
    copies: Annotated[dict[Text, Text], Field(max_length=100)] | None = Field(
        None, description='Tensors that are written once more under another name: {"lm_head.weight": "model.embed_tokens.weight"}.'
    )
    form: Annotated[Text, Field(max_length=40)] | None = Field(
        None,
        description="Of a diffusion model, and must be said of it: whose names its tensors get. hf_diffusers, original or another of the "
        "model's page; mindspeed-mm: those of MindSpeed-MM's rank files.",
    )
    release: bool = Field(
        False, description="In a directory `release` beside latest_checkpointed_iteration.txt, where MindSpeed-MM and Megatron look for it."
    )


SOURCE, TARGET = DcpSource, DcpTarget
