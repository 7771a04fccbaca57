"""HunYuan V1, dense: Llama with norms on heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, K_NORM, O_BIAS, Q_NORM, QKV_BIASES
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

HEAD_NORMS = (
    row("self_attn.query_layernorm.weight", Q_NORM, "head_dim"),
    row("self_attn.key_layernorm.weight", K_NORM, "head_dim"),
)


def has_experts(facts: Facts) -> bool:
    """Whether a configuration of the kind `hunyuan`, which dense models have too, speaks of experts."""
    return facts.number("experts", default=1) > 1


FAMILY = replace(
    llama2.FAMILY,
    name="hunyuan",
    title="HunYuan V1 (dense)",
    model_types=("hunyuan_v1_dense", "hunyuan"),
    architectures=("HunYuanDenseV1ForCausalLM",),
    attention=GQA + HEAD_NORMS,
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    distinguish=lambda facts: not has_experts(facts),
    megatron={"qk_layernorm": True},
)
