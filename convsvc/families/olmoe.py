"""OLMoE: Llama with experts, and norms over all heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM_WIDE, gqa_sizes
from convsvc.blocks.moe import MOE, sparse_sizes
from convsvc.families import llama2
from convsvc.families.olmo import BIASES

FAMILY = replace(
    llama2.FAMILY,
    name="olmoe",
    title="OLMoE",
    model_types=("olmoe",),
    architectures=("OlmoeForCausalLM",),
    attention=GQA + QK_NORM_WIDE,
    mlp=(),
    experts=MOE,
    flags=BIASES,
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_experts", "expert_ffn": "intermediate_size"},
    megatron={"qk_layernorm": True},
)
