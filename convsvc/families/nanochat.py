"""nanochat: no norm has a weight, queries and keys are normed behind their rotation, and no gate (transformers 5.23, NanoChatAttention)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.families import olmo

FAMILY = replace(
    olmo.FAMILY,
    name="nanochat",
    title="nanochat",
    model_types=("nanochat",),
    architectures=("NanoChatForCausalLM",),
    mlp=ungated("mlp.fc1", "mlp.fc2", biased=False),
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, ungated_sizes),
)
