"""Mixtral: Llama whose feed-forward blocks are all experts, under names of their own; their width is called intermediate_size."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_SPARSE_MOE, sparse_sizes
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="mixtral",
    title="Mixtral",
    model_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    mlp=(),
    experts=BLOCK_SPARSE_MOE,
    packed=PACKED_SPARSE_MOE,
    flags=(),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
)
