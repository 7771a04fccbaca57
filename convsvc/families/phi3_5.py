"""Phi-3 and Phi-3.5: Llama with one stored tensor for queries, keys and values, and one for gate and up."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_PACKED
from convsvc.blocks.gqa import GQA_PACKED
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="phi3.5",
    title="Phi-3, Phi-3.5",
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    attention=GQA_PACKED,
    mlp=GLU_PACKED,
    flags=(),
)
# As published, low-rank matrices for pictures and speech lie beside the weights, which text is computed with alone.
MULTIMODAL = replace(
    FAMILY,
    name="phi4-mm",
    title="Phi-4-multimodal (text)",
    model_types=("phi4_multimodal", "phi4mm"),
    architectures=("Phi4MultimodalForCausalLM", "Phi4MMForCausalLM"),
    spelling=((r"\.base_layer\.", "."),),
)
FAMILIES = (FAMILY, MULTIMODAL)
