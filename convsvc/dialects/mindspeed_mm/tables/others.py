"""Towers that are stored as they are, whole on every rank: GLM-4.1V's, DeepSeek-VL2's; and their decoders' own names.

Facts: what mm-convert writes (commit 57069cd5).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks import glm_vit, siglip
from convsvc.blocks.gqa import PACKED_QKV, PROJ
from convsvc.blocks.mla import KV_DOWN, KV_DOWN_NORM, KV_UP, LATENT_PROJ, Q_WHOLE
from convsvc.blocks.norms import POST_ATTENTION_NORM, POST_MLP_NORM
from convsvc.blocks.vit import PATCH_EMBED, PATCH_EMBED_BIAS
from convsvc.dialects.mcore.tables import Layers, local
from convsvc.dialects.mcore.tables.feed_forward import DENSE, ROUTERS, SHARED_EXPERTS
from convsvc.dialects.mindspeed_mm.tables.text import CANONICAL_TEXT, FUSED, TEXT
from convsvc.dialects.mindspeed_mm.tables.vision import tower
from convsvc.families.videoalign import REWARD
from convsvc.tensors.declare import part, row

WHOLE_DENSE = tuple(replace(each, tp=None) for each in DENSE)
GLM_VISION = tower(
    "image_encoder",
    "encoder.blocks.layers.",
    (
        *local.NORMS,
        row("self_attention.qkv.weight",   PACKED_QKV),
        row("self_attention.proj.weight",  PROJ,         "hidden (group query head_dim)"),
        *WHOLE_DENSE,
    ),
    (
        row("encoder.patch_embed.proj.weight",                PATCH_EMBED,        "hidden channel frame patch_row patch_column"),
        row("encoder.patch_embed.proj.bias",                  PATCH_EMBED_BIAS,   "hidden"),
        row("encoder.embeddings.position_embedding.weight",   glm_vit.POSITIONS,  "position hidden"),
        row("encoder.post_conv_layernorm.weight",             glm_vit.CONV_NORM,  "hidden"),
    ),
    (
        row("encoder.blocks.final_layernorm.weight",      glm_vit.LAST_NORM,            "hidden"),
        row("encoder.downsample.weight",                  glm_vit.DOWNSAMPLE,           "out hidden side_row side_column"),
        row("encoder.downsample.bias",                    glm_vit.DOWNSAMPLE_BIAS,      "out"),
        row("projector.proj.weight",                      glm_vit.PROJECTOR,            "out input"),
        row("projector.post_projection_norm.weight",      glm_vit.PROJECTOR_NORM,       "out"),
        row("projector.post_projection_norm.bias",        glm_vit.PROJECTOR_NORM_BIAS,  "out"),
        row("projector.gate_proj.weight",                 glm_vit.PROJECTOR_GATE,       "inner out"),
        row("projector.up_proj.weight",                   glm_vit.PROJECTOR_UP,         "inner out"),
        row("projector.down_proj.weight",                 glm_vit.PROJECTOR_DOWN,       "out inner"),
    ),
)  # fmt: skip
NORMS_AFTER = (
    row("post_self_attn_layernorm.weight",  POST_ATTENTION_NORM,  "hidden"),
    row("post_mlp_layernorm.weight",        POST_MLP_NORM,        "hidden"),
)  # fmt: skip
_GLM = replace(FUSED, dense=FUSED.dense + NORMS_AFTER, sparse=FUSED.sparse + NORMS_AFTER)
GLM_TEXT = replace(TEXT, local=_GLM, te=_GLM)

DEEPSEEK_VISION = tower(
    "image_encoder",
    "encoder.blocks.",
    tuple(row(name, each, order) for name, each, order in siglip.LAYER_LOGICALS),
    (
        row("encoder.patch_embed.proj.weight",  siglip.PATCHES,       "hidden channel patch_row patch_column"),
        row("encoder.patch_embed.proj.bias",    siglip.PATCHES_BIAS,  "hidden"),
        row("encoder.pos_embed",                siglip.POSITIONS,     "one position hidden"),
    ),
    tuple(row(f"encoder.{each.name}", each, order) for each, order in siglip.ENDS)
    + tuple(row(each.name, each, order) for each, order in siglip.PROJECTOR),
)  # fmt: skip
DEEPSEEK_TOKENS = replace(tower("", "", (), siglip.TOKENS, ()), prefix="")
# Queries and the latent are one matrix, and whole on every rank.
LATENT_ATTENTION = (
    row("self_attention.linear_qkv.weight",   (part(Q_WHOLE, "(head query_dim) hidden"), part(KV_DOWN, "latent hidden"))),
    row("self_attention.k_layernorm.weight",  KV_DOWN_NORM,  "kv_rank"),
    row("self_attention.linear_kvb.weight",   KV_UP,         "(head key_value) kv_rank",  tp="head"),
    row("self_attention.linear_proj.weight",  LATENT_PROJ,   "hidden (head value_dim)",   tp="head"),
)  # fmt: skip
_LATENT = Layers(
    dense=local.NORMS + LATENT_ATTENTION + DENSE,
    sparse=local.NORMS + LATENT_ATTENTION + ROUTERS + SHARED_EXPERTS,
    experts=local.EXPERTS,
    grouped=(),
)
DEEPSEEK_TEXT = replace(TEXT, local=_LATENT, te=_LATENT)

REWARDS = (row("rm_head.weight", REWARD, "reward hidden"),)
REWARD_TEXT = replace(TEXT, heads=REWARDS)
CANONICAL_REWARD_TEXT = replace(CANONICAL_TEXT, heads=REWARDS)
