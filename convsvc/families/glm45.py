"""GLM-4.5: GQA with biases, a few dense layers, then experts and a shared expert; an MTP layer; a norm on every query and key head."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIASES, SHARED_EXPERTS, moe_sizes, shared_sizes
from convsvc.blocks.mtp import MTP, MTP_COPIES, MTP_SHARED_HEAD_NORM
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.mtp_layers import Mtp

NORM_FLAGS = ("use_qk_norm", "qk_layernorm")


def has_head_norms(facts: Facts) -> bool:
    return facts.flag(*NORM_FLAGS)


FAMILY = replace(
    llama2.FAMILY,
    name="glm45",
    title="GLM-4.5",
    model_types=("glm4_moe",),
    architectures=("Glm4MoeForCausalLM",),
    experts=MOE + ROUTER_BIASES + SHARED_EXPERTS,
    flags=((("attention_bias", "add_qkv_bias"), QKV_BIASES), (NORM_FLAGS, QK_NORM)),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    mtp=Mtp(MTP + MTP_SHARED_HEAD_NORM + MTP_COPIES),
    distinguish=has_head_norms,
    megatron={"add_qkv_bias": True, "qk_layernorm": True, "moe_router_enable_expert_bias": True},
    names={"experts": "n_routed_experts", "shared": "n_shared_experts", "dense": "first_k_dense_replace"},
    partial_rotary=0.5,
)
