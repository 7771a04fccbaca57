"""Phi-4-multimodal: its text is Phi-3.5's."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import phi3_5

# As published, low-rank matrices for pictures and speech lie beside the weights, which text is computed with alone.
FAMILY = replace(
    phi3_5.FAMILY,
    name="phi4-mm",
    title="Phi-4-multimodal (text)",
    model_types=("phi4_multimodal", "phi4mm"),
    architectures=("Phi4MultimodalForCausalLM", "Phi4MMForCausalLM"),
    spelling=((r"\.base_layer\.", "."),),
)
