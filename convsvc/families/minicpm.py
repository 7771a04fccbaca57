"""MiniCPM: Llama with factors on embeddings, residuals and logits."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import llama2
from convsvc.models.beyond import multipliers

FAMILY = replace(
    llama2.FAMILY,
    name="minicpm",
    title="MiniCPM",
    model_types=("minicpm",),
    architectures=("MiniCPMForCausalLM",),
    tied_by_default=True,
    advice=(multipliers,),
)
