"""EXAONE MoE (K-EXAONE): Llama with norms on heads, experts, a bias on the router and a shared block."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import GQA, QK_NORM, gqa_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIAS, SHARED_EXPERTS, moe_sizes, shared_sizes
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.tensors.declare import row

# As transformers 5 has it in memory.
ALSO = ("mlp.gate.e_score_correction_bias",)
FAMILY = replace(
    llama2.FAMILY,
    name="exaone-moe",
    title="EXAONE MoE (K-EXAONE)",
    model_types=("exaone_moe",),
    architectures=("ExaoneMoeForCausalLM",),
    attention=GQA + QK_NORM,
    experts=(*MOE, row("mlp.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", also=ALSO), *SHARED_EXPERTS),
    flags=(),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    names={"experts": "num_experts", "shared": "num_shared_experts", "dense": "first_k_dense_replace"},
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
    advice=(windows,),
)
