"""What a job may say of a checkpoint of MindSpore Transformers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Count, Path, Size, Strict, Text
from convsvc.spec.places import SourceSpec, TargetSpec


class LayoutFlags(Strict):
    """Flags of the training configuration that decide how matrices lie, and that no checkpoint records; the defaults are training's."""

    use_interleaved_weight_layout_mlp: bool = Field(
        True, description="Rows of linear_fc1 alternate between gate and up; false: the gate's rows before up's."
    )
    use_contiguous_weight_layout_attention: bool = Field(
        False, description="linear_qkv holds all queries, all keys, all values; false: query group after query group."
    )


class SourceFlags(Strict):
    """The same of a checkpoint that is there; what a config.json says of them must agree."""

    use_interleaved_weight_layout_mlp: bool | None = Field(
        None,
        description="Rows of linear_fc1 alternate between gate and up; false: the gate's rows before up's. Without it, as the config.json "
        "says, else true: training's default.",
    )
    use_contiguous_weight_layout_attention: bool | None = Field(
        None,
        description="linear_qkv holds all queries, all keys, all values; false: query group after query group. Without it, as the "
        "config.json says, else false: training's default.",
    )


class Architecture(Strict):
    """Sizes of the model, by the names of the training configuration; what a config.json or the tensors say must agree.

    The tensors show most of them. They do not show how many heads there are, nor, without a norm over them, how wide these are.
    """

    num_layers: Size | None = None
    hidden_size: Size | None = None
    vocab_size: Size | None = None
    num_attention_heads: Size | None = None
    num_query_groups: Size | None = Field(None, description="Key-value heads; without it, as many as heads.")
    kv_channels: Size | None = Field(None, description="A head's width; without it, hidden_size / num_attention_heads.")
    ffn_hidden_size: Size | None = None
    moe_ffn_hidden_size: Size | None = None
    num_moe_experts: Size | None = Field(None, description="Routed experts.")
    moe_shared_expert_intermediate_size: Size | None = Field(None, description="Of all shared experts together.")
    first_k_dense_replace: Count | None = Field(None, description="Layers without experts before those with them.")
    mtp_num_layers: Count | None = Field(None, description="Multi-token-prediction layers.")
    q_lora_rank: Size | None = None
    kv_lora_rank: Size | None = None
    qk_nope_head_dim: Size | None = None
    qk_rope_head_dim: Size | None = None
    v_head_dim: Size | None = None


class MindFormersSource(SourceSpec, SourceFlags):
    """A directory of safetensors under Megatron's names: whole (with param_name_map.json or one file), or cut into `rank_R/` directories.

    Cut ones need their strategy files, or metadata.json beside the files. Sizes are read from config_dir, or from a config.json beside
    the weights, and from the tensors.
    """

    format: Literal["mindformers"]
    strategy_path: Path | None = Field(
        None, description="The strategy files' directory, or one file; without it, `strategy` beside the rank directories or their parent."
    )
    file_suffix: Annotated[Text, Field(max_length=200)] | None = Field(
        None,
        description='Which of the files in a rank\'s directory, by the end of their names, e.g. "1000_1"; of `iteration_N` directories, N. '
        "Without it, the newest.",
    )
    has_redundancy: bool | None = Field(
        None, description="Whether a rank's file holds all that the rank has, where the file itself does not say; without it, yes."
    )
    leave_out_prefix: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(
        None, description='Tensors whose names begin so are left out, e.g. "adam_": what training keeps beside the weights.'
    )
    config_dir: Path | None = Field(None, description="A directory with the model's config.json (Hugging Face's).")
    architecture: Architecture | None = Field(None, description="Sizes that neither a config.json nor the tensors say.")


class MindFormersTarget(TargetSpec, LayoutFlags):
    """Safetensors under Megatron's names: whole, in parts with param_name_map.json; or cut over ranks, with strategy files."""

    format: Literal["mindformers"]
    config_dir: Path | None = Field(
        None, description="Its config, tokenizer and code go with the weights; without it, a Hugging Face source's own."
    )
    stacked_experts: bool = Field(False, description="weight1 and weight2 have an axis for the experts; false: it is in their rows.")
    mtp_num_layers: Count | None = Field(None, description="Multi-token-prediction layers to convert; without it, all.")
    tensor_parallel_size: Size | None = Field(None, description="Ranks a layer's matrices are cut over (tp).")
    pipeline_parallel_size: Size | None = Field(None, description="Stages the layers are spread over (pp).")
    expert_parallel_size: Size | None = Field(None, description="Ranks the experts are spread over (ep); divides data_parallel_size.")
    data_parallel_size: Size | None = Field(None, description="Ranks that hold the same (dp).")
    optimizer_weight_shard_size: Size | None = Field(
        None, description="Ranks of those over which each tensor's first axis is cut once more (optimizer parallel); 1: none."
    )
    num_layer_list: Annotated[tuple[Count, ...], Field(max_length=10_000)] | None = Field(None, description="Layers of each stage.")
    remove_redundancy: bool = Field(False, description="Save what several ranks hold alike on one of them only.")
    max_part_size: Annotated[Text, Field(max_length=40)] | None = Field(None, description='Parts of a whole checkpoint, e.g. "3GiB".')


SOURCE, TARGET = MindFormersSource, MindFormersTarget
