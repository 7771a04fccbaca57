"""What a job may say of a source's model that the source does not say itself: sizes, and adapters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from convsvc.spec.fields import Path, Size, Strict, Text
from convsvc.spec.naming import Beginning


class Architecture(Strict):
    """Sizes of the model that a source does not state itself, by its names or Megatron's; what is stated must agree.

    For mamba2: MindSpeed-LLM's converter saves its checkpoints without args, and a state-spaces configuration is silent about most.
    """

    hidden_size: Size | None = None
    num_hidden_layers: Size | None = None
    mamba_state_dim: Size | None = Field(None, description="A state's size.")
    mamba_num_groups: Size | None = Field(None, description="Groups of heads.")
    mamba_head_dim: Size | None = Field(None, description="A head's width.")
    mamba_num_heads: Size | None = Field(None, description="Heads; without it, as many as fill twice the hidden size.")


def stated_sizes(architecture: Architecture | None) -> dict[str, int]:
    """What is stated, by name."""
    return {} if architecture is None else architecture.model_dump(exclude_none=True)


ARCHITECTURE = Field(None, description="Sizes of the model that the source does not state itself (mamba2).")


class Lora(Strict):
    """Adapters in the source, merged into the weights they belong to. What the adapters' checkpoint says must agree."""

    path: Path | None = Field(
        None,
        description="A checkpoint of the adapters alone (for Hugging Face: PEFT's directory); without it they lie beside the base weights.",
    )
    r: Size | None = Field(None, description="Rank; read from the checkpoint where it says it.")
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="The scale is alpha / r; read from the checkpoint where it says it."
    )
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="The scale itself, of all adapters, where alpha is saved nowhere: instead of alpha."
    )
    names: Annotated[dict[Beginning, Beginning], Field(max_length=100)] | None = Field(
        None,
        description="Of a torch distributed checkpoint of adapters: what the base's names begin with, and what stands there in it; of "
        'several the longest counts. {"": "model.base_model.model."}',
    )
    use_rslora: bool | None = Field(None, description="The scale is alpha / sqrt(r); read from the checkpoint where it says it.")
    target_modules: Annotated[tuple[Text, ...], Field(max_length=1000)] = Field(
        (), description="Modules with adapters; what has none is noted, what has and is not named is used too."
    )
