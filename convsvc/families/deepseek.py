"""DeepSeek-MoE, the first DeepSeek with experts: Llama's attention, the first layers dense, experts with shared ones in the others."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import MOE, SHARED_EXPERTS, moe_sizes, shared_sizes
from convsvc.families import llama2
from convsvc.families.deepseek2 import is_latent

FAMILY = replace(
    llama2.FAMILY,
    name="deepseek",
    title="DeepSeek-MoE",
    model_types=("deepseek",),
    # DeepSeek-OCR's text decoder is of the second's class, with the first's attention.
    architectures=("DeepseekForCausalLM", "DeepseekV2ForCausalLM"),
    distinguish=lambda facts: "DeepseekV2ForCausalLM" not in (facts.items("architectures", str) or ()) or not is_latent(facts),
    experts=MOE + SHARED_EXPERTS,
    stacked=False,
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    names={"experts": "n_routed_experts", "shared": "n_shared_experts", "dense": "first_k_dense_replace"},
)
