"""InternLM 3: Llama with a switch for the biases of queries, keys and values, and one for all others (transformers InternLM3Config)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_BIASES
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="internlm3",
    title="InternLM3",
    model_types=("internlm3",),
    # transformers saves it under the class that it runs it with.
    architectures=("InternLM3ForCausalLM", "LlamaForCausalLM"),
    flags=((("qkv_bias", "attention_bias"), QKV_BIASES), (("bias", "mlp_bias"), O_BIAS + GLU_BIASES)),
)
