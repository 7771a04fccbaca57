"""Granite 3: Llama with factors on embeddings, residuals, attention and logits; its MoE models store a layer's experts together."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, SHARED_FC1, SHARED_FC2, sparse_sizes
from convsvc.families import llama2
from convsvc.models.beyond import multipliers
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

STACKED_EXPERTS = (
    row("block_sparse_moe.router.layer.weight", ROUTER, "expert hidden"),
    row("block_sparse_moe.input_linear.weight", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("block_sparse_moe.output_linear.weight", EXPERT_FC2, "expert hidden expert_ffn"),
)
SHARED_MLP = (
    row("shared_mlp.input_linear.weight", SHARED_FC1, "(glu shared_ffn) hidden"),
    row("shared_mlp.output_linear.weight", SHARED_FC2, "hidden shared_ffn"),
)


def shared_mlp_sizes(facts: Facts) -> dict[str, int]:
    """shared_ffn: Granite's own name for it, or Megatron's."""
    return {"shared_ffn": facts.first_number(("shared_intermediate_size", "moe_shared_expert_intermediate_size"))}


GRANITE = replace(
    llama2.FAMILY,
    name="granite",
    title="Granite 3",
    model_types=("granite",),
    architectures=("GraniteForCausalLM",),
    advice=(multipliers,),
)
MOE = replace(
    GRANITE,
    name="granitemoe",
    title="Granite 3 MoE",
    model_types=("granitemoe",),
    architectures=("GraniteMoeForCausalLM",),
    mlp=(),
    experts=STACKED_EXPERTS,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
)
MOE_SHARED = replace(
    MOE,
    name="granitemoeshared",
    title="Granite MoE with a shared expert",
    model_types=("granitemoeshared",),
    architectures=("GraniteMoeSharedForCausalLM",),
    experts=STACKED_EXPERTS + SHARED_MLP,
    sizes=(gqa_sizes, sparse_sizes, shared_mlp_sizes),
    names={**MOE.names, "shared": "shared_intermediate_size"},
)
FAMILIES = (GRANITE, MOE, MOE_SHARED)
