"""What a job may say of a checkpoint of NVIDIA's Megatron-LM."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from convsvc.spec.fields import Count, Path, Size, Text
from convsvc.spec.model import ARCHITECTURE, Architecture
from convsvc.spec.places import SourceSpec, TargetSpec

Iteration = Annotated[str, Field(pattern=r"^(release|[0-9]{1,12})$")]
Bytes = Annotated[Text, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,3})?(KB|MB|GB|KiB|MiB|GiB)$")]


class MegatronSource(SourceSpec):
    """A distributed checkpoint of Megatron-LM (`--ckpt-format torch_dist`), or one that slime, miles, verl or ms-swift saved as such.

    The model is read from the saved args, or from a config.json, which must agree with them. Of args that training saved the family has to
    be told: model_type, or config_dir.
    """

    format: Literal["megatron"]
    storage: Literal["torch_dist"] = Field("torch_dist", description="How it is stored. `.metadata` and `.distcp` files.")
    iteration: Iteration | None = Field(None, description="Instead of the tracker's.")
    config_dir: Path | None = Field(None, description="A directory with the model's config.json, instead of what the saved args say.")
    architecture: Architecture | None = ARCHITECTURE


class MegatronTarget(TargetSpec):
    """A distributed checkpoint that Megatron-LM loads at any tensor, pipeline and expert parallel sizes."""

    format: Literal["megatron"]
    storage: Literal["torch_dist"] = Field("torch_dist", description="How it is stored. `.metadata` and `.distcp` files.")
    layer_keys: Literal["stacked", "per-layer", "auto"] = Field(
        "auto",
        description="Whether all layers share a key, with an axis for them, or have keys of their own. auto: as Megatron writes the "
        "family's usual configuration. Megatron-LM loads either; verl's dist_checkpointing_path wants what its own configuration has.",
    )
    iteration: Annotated[str, Field(pattern=r"^(release|[1-9][0-9]{0,6})$")] = Field(
        "release", description="The iteration that the tracker names; of release, training begins at 0 and asks for no optimizer state."
    )
    chunk_size: Bytes = Field(
        "256MiB",
        description="The most bytes of a chunk, in two-byte values: a rank reads whole ones. A row or an expert may have more.",
    )
    make_vocab_size_divisible_by: Size | None = Field(
        None, description="Pad the vocabulary with zero rows to a multiple of this. Without it, it is never padded; Megatron reads either."
    )
    mtp_num_layers: Count | None = Field(None, description="Multi-token-prediction layers to convert; without it, all.")
    adapter_only: Literal[False] = Field(False, description="For Hugging Face targets only: adapters are merged.")

    @model_validator(mode="before")
    @classmethod
    def _any_layout(cls, given: Any) -> Any:
        if isinstance(given, dict):
            stated = sorted(set(given) & PARALLEL)
            if stated:
                raise ValueError(f"{', '.join(stated)}: a torch_dist checkpoint is of no layout, training loads it at any; leave it out")
        return given


PARALLEL = frozenset(
    {
        "tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size", "expert_tensor_parallel_size", "num_layer_list",
        "num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "pipeline_model_parallel_layout",
    }
)  # fmt: skip
SOURCE, TARGET = MegatronSource, MegatronTarget
