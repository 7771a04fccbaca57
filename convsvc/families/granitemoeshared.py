"""Granite MoE with a shared expert beside the routed ones."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import SHARED_FC1, SHARED_FC2, sparse_sizes
from convsvc.families import granitemoe
from convsvc.families.granite import STACKED_EXPERTS
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

SHARED_MLP = (
    row("shared_mlp.input_linear.weight", SHARED_FC1, "(glu shared_ffn) hidden"),
    row("shared_mlp.output_linear.weight", SHARED_FC2, "hidden shared_ffn"),
)


def shared_mlp_sizes(facts: Facts) -> dict[str, int]:
    """shared_ffn: Granite's own name for it, or Megatron's."""
    return {"shared_ffn": facts.first_number(("shared_intermediate_size", "moe_shared_expert_intermediate_size"))}


FAMILY = replace(
    granitemoe.FAMILY,
    name="granitemoeshared",
    title="Granite MoE with a shared expert",
    model_types=("granitemoeshared",),
    architectures=("GraniteMoeSharedForCausalLM",),
    experts=STACKED_EXPERTS + SHARED_MLP,
    sizes=(gqa_sizes, sparse_sizes, shared_mlp_sizes),
    names={**granitemoe.FAMILY.names, "shared": "shared_intermediate_size"},
)
