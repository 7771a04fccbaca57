"""BitNet b1.58 (in bf16): Llama with a norm inside each block, before its last projection."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU
from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES
from convsvc.blocks.own import own
from convsvc.families import llama2

FAMILY = replace(
    llama2.FAMILY,
    name="bitnet",
    title="BitNet b1.58",
    model_types=("bitnet",),
    architectures=("BitNetForCausalLM", "BitnetForCausalLM"),
    attention=(*GQA, own("self_attn.attn_sub_norm.weight", "hidden")),
    mlp=(*GLU, own("mlp.ffn_sub_norm.weight", "ffn")),
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    tied_by_default=True,
)
