"""MiniMax-M2: every layer has experts, under Mixtral's names; one norm spans all query heads, one all key heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM_WIDE, gqa_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_SPARSE_MOE, ROUTER_BIAS, sparse_sizes
from convsvc.families import llama2
from convsvc.tensors.declare import row

FAMILY = replace(
    llama2.FAMILY,
    name="minimax_m2",
    title="MiniMax-M2",
    model_types=("minimax_m2",),
    architectures=("MiniMaxM2ForCausalLM",),
    attention=GQA + QK_NORM_WIDE,
    mlp=(),
    experts=(*BLOCK_SPARSE_MOE, row("block_sparse_moe.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32")),
    packed=(*PACKED_SPARSE_MOE, row("mlp.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32")),
    flags=(),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
)
