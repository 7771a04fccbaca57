"""Granite 3: Llama with factors on embeddings, residuals, attention and logits."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER
from convsvc.families import llama2
from convsvc.models.beyond import multipliers
from convsvc.tensors.declare import row

STACKED_EXPERTS = (
    row("block_sparse_moe.router.layer.weight", ROUTER, "expert hidden"),
    row("block_sparse_moe.input_linear.weight", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("block_sparse_moe.output_linear.weight", EXPERT_FC2, "expert hidden expert_ffn"),
)


FAMILY = replace(
    llama2.FAMILY,
    name="granite",
    title="Granite 3",
    model_types=("granite",),
    architectures=("GraniteForCausalLM",),
    advice=(multipliers,),
)
