"""GLM-4 (0414): Llama with biases on queries, keys and values, gate and up in one tensor, and a norm after each block too."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU_PACKED
from convsvc.blocks.gqa import QKV_BIASES
from convsvc.blocks.norms import NORMS, POST_ATTENTION_NORM, POST_MLP_NORM
from convsvc.families import llama2
from convsvc.tensors.declare import row

FAMILY = replace(
    llama2.FAMILY,
    name="glm4",
    title="GLM-4",
    model_types=("glm4",),
    architectures=("Glm4ForCausalLM",),
    norms=(
        *NORMS,
        row("post_self_attn_layernorm.weight", POST_ATTENTION_NORM, "hidden"),
        row("post_mlp_layernorm.weight", POST_MLP_NORM, "hidden"),
    ),
    mlp=GLU_PACKED,
    flags=((("attention_bias", "add_qkv_bias"), QKV_BIASES),),
    megatron={"post_norm": True, "rotary_interleaved": True},
    partial_rotary=0.5,
)
