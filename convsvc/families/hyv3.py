"""Hunyuan V3: Qwen3's attention, experts with names of their own, an MTP layer without copies."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.moe import EXPERTS, PACKED_SPARSE_MOE, ROUTER, ROUTER_BIAS, SHARED_EXPERTS, SHARED_FC1, SHARED_FC2
from convsvc.blocks.mtp import MTP, MTP_FINAL_NORM
from convsvc.families import glm45, qwen3
from convsvc.models.mtp_layers import Mtp
from convsvc.tensors.declare import row

HUNYUAN_MOE = (
    row("mlp.router.gate.weight", ROUTER, "expert hidden"),
    row("mlp.expert_bias", ROUTER_BIAS, "expert", keep="F32"),
    *EXPERTS,
    row("mlp.shared_mlp.gate_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("mlp.shared_mlp.up_proj.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
    row("mlp.shared_mlp.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
)

FAMILY = replace(
    qwen3.FAMILY,
    name="HYV3",
    title="Hunyuan V3",
    model_types=("hy_v3",),
    architectures=("HYV3ForCausalLM",),
    experts=HUNYUAN_MOE,
    packed=(*PACKED_SPARSE_MOE, row("mlp.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32"), *SHARED_EXPERTS),
    flags=(),
    # Published with first_k_dense_replace, which transformers (5.23, HYV3Config) does not read: it takes the first layer for dense.
    names={"shared": "num_shared_experts", "dense": "mlp_layer_types"},
    sizes=glm45.FAMILY.sizes,
    mtp=Mtp(MTP + MTP_FINAL_NORM),
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
)
