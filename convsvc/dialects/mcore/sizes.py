"""How a job says in what way a Megatron-style checkpoint is cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Count, Counts, Size, Strict, Text
from convsvc.spec.places import ModelSource, TargetSpec


class ParallelSizes(Strict):
    """How a Megatron-style checkpoint is cut. `None` in a source means: as its saved args say."""

    tensor_parallel_size: Size | None = Field(None, description="Ranks a layer's matrices are cut over (tp).")
    pipeline_parallel_size: Size | None = Field(None, description="Ranks the layers are spread over (pp).")
    expert_parallel_size: Size | None = Field(None, description="Ranks the experts are spread over (ep).")
    expert_tensor_parallel_size: Size | None = Field(None, description="Ranks one expert's matrices are cut over (etp): 1 or tp.")
    num_layers_per_virtual_pipeline_stage: Size | None = Field(None, description="Layers in one virtual pipeline stage (vpp).")
    num_virtual_stages_per_pipeline_rank: Size | None = Field(None, description="Virtual pipeline stages in a pipeline stage.")
    decoder_first_pipeline_num_layers: Size | None = Field(None, description="Layers of the first pipeline stage; the others are even.")
    decoder_last_pipeline_num_layers: Size | None = Field(None, description="Layers of the last pipeline stage; the others are even.")
    account_for_embedding_in_pipeline_split: bool | None = Field(None, description="Count the embedding as a layer of the first stage.")
    account_for_loss_in_pipeline_split: bool | None = Field(None, description="Count the output as a layer of the last stage.")
    pipeline_model_parallel_layout: Annotated[Text, Field(max_length=10_000)] | None = Field(
        None, description='What each virtual stage holds, e.g. "Et*3|(tt|)*29,m|L": E embedding, t layer, m MTP layer, L output.'
    )
    num_layer_list: Counts | None = Field(None, description="Layers of each pipeline stage, e.g. [1, 3, 2, 2].")
    noop_layers: Counts | None = Field(None, description="Layer numbers that hold nothing, counted with them included.")
    schedules_method: Literal["dualpipev"] | None = Field(None, description="Pipeline schedule that changes where layers lie.")
    moe_grouped_gemm: bool | None = Field(None, description="Experts stacked in weight1/weight2, not one by one.")
    moe_tp_extend_ep: bool | None = Field(None, description="Spread experts over tp x ep and keep each whole.")
    mla_mm_split: bool | None = Field(None, description="MLA's up projections in four matrices.")
    mtp_num_layers: Count | None = Field(None, description="Multi-token-prediction layers to convert.")
    transformer_impl: Literal["local", "transformer_engine"] | None = Field(None, description="Whose module names are used.")
    make_vocab_size_divisible_by: Size | None = Field(
        None, description="Pad the vocabulary with zero rows to a multiple of this x tp. Without it the vocabulary is never padded."
    )


class RankFilesTarget(ParallelSizes, TargetSpec):
    """Megatron-mcore rank files."""

    iteration: Annotated[str, Field(pattern=r"^(release|[1-9][0-9]{0,6})$")] | None = Field(
        None,
        description="What the tracker names; without it that of a source of training, so that training goes on from there (with "
        "--no-load-optim --no-load-rng, as optimizer state is not kept), else 1.",
    )


class RankFilesSource(ParallelSizes, ModelSource):
    """Megatron-mcore rank files. Sizes are read from their saved args; what is stated must agree."""

    iteration: Annotated[str, Field(pattern=r"^(release|[0-9]{1,12})$")] | None = Field(None, description="Instead of the tracker's.")
