"""Command A with experts: Cohere 2 (one norm for both blocks, side by side) whose later layers have experts."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import MOE, SHARED_EXPERTS
from convsvc.families import cohere
from convsvc.models.beyond import windows
from convsvc.models.facts import Facts
from convsvc.models.family import standard_layer


def cohere_moe_sizes(facts: Facts) -> dict[str, int]:
    """Experts as wide as intermediate_size says; dense layers have a width of their own (Cohere2MoeDecoderLayer)."""
    width, dense = facts.number("ffn"), facts.number("prefix_dense_intermediate_size", default=0)
    shared = facts.number("num_shared_experts", default=0) * width
    return {"glu": 2, "ffn": dense or width, "expert": facts.number("experts"), "expert_ffn": width, "shared_ffn": shared}


FAMILY = replace(
    cohere.FAMILY,
    name="cohere2-moe",
    title="Command A MoE",
    model_types=("cohere2_moe",),
    architectures=("Cohere2MoeForCausalLM",),
    experts=MOE + SHARED_EXPERTS,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, cohere_moe_sizes),
    layer=standard_layer,
    fields=("mlp_layer_types", "prefix_dense_intermediate_size", "num_shared_experts"),
    names={**cohere.FAMILY.names, "experts": "num_experts", "expert_ffn": "intermediate_size"},
    advice=(windows,),
)
