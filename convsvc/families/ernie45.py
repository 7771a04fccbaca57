"""ERNIE 4.5, the dense models: Llama with one switch for all biases, and rotary positions that pair neighbours."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="ernie4.5",
    title="ERNIE 4.5 (dense)",
    model_types=("ernie4_5",),
    architectures=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    flags=(("use_bias", QKV_BIASES + O_BIAS + GLU_BIASES),),
    tied_by_default=True,
    megatron={"rotary_interleaved": True},
)
