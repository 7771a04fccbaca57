"""Ling 2 and Ring (Bailing MoE V2): one stored tensor for queries, keys and values, under names of its own; experts; an MTP layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.blocks.gqa import K_NORM, PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, Q_NORM
from convsvc.blocks.moe import MOE, ROUTER_BIAS, SHARED_EXPERTS
from convsvc.blocks.mtp import MTP, MTP_FINAL_NORM
from convsvc.families import glm45
from convsvc.models.mtp_layers import Mtp
from convsvc.tensors.declare import row

ATTENTION = (
    row("attention.query_key_value.weight", PACKED_QKV),
    row("attention.dense.weight", PROJ, "hidden (group query head_dim)"),
)
QKV_BIAS = (row("attention.query_key_value.bias", PACKED_QKV_BIAS),)
DENSE_BIAS = (row("attention.dense.bias", PROJ_BIAS, "hidden"),)
HEAD_NORMS = (
    row("attention.query_layernorm.weight", Q_NORM, "head_dim"),
    row("attention.key_layernorm.weight", K_NORM, "head_dim"),
)

FAMILY = replace(
    glm45.FAMILY,
    name="bailing_mini",
    title="Ling 2, Ring (Bailing MoE V2)",
    model_types=("bailing_moe", "bailing_moe_v2"),
    architectures=("BailingMoeV2ForCausalLM",),
    embedding=(row("model.word_embeddings.weight", EMBEDDING, "vocab hidden"),),
    attention=ATTENTION,
    experts=(*MOE, row("mlp.gate.expert_bias", ROUTER_BIAS, "expert", keep="F32"), *SHARED_EXPERTS),
    flags=((("use_qkv_bias", "add_qkv_bias"), QKV_BIAS), ("use_bias", DENSE_BIAS), (glm45.NORM_FLAGS, HEAD_NORMS)),
    stacked=False,
    mtp=Mtp(MTP + MTP_FINAL_NORM),
    distinguish=None,
    names={"shared": "num_shared_experts", "dense": "first_k_dense_replace"},
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
)
