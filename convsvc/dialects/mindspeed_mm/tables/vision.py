"""Towers for images, by family, each with its projector.

Facts: what mm-convert writes (commit 57069cd5).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS
from convsvc.blocks.vit import (
    DEEP_FC1,
    DEEP_FC1_BIAS,
    DEEP_FC2,
    DEEP_FC2_BIAS,
    DEEP_NORM,
    DEEP_NORM_BIAS,
    MERGER_FC1,
    MERGER_FC1_BIAS,
    MERGER_FC2,
    MERGER_FC2_BIAS,
    MERGER_NORM,
    MERGER_NORM_BIAS,
    PATCH_EMBED,
    PATCH_EMBED_BIAS,
    POSITIONS,
)
from convsvc.dialects.mcore.tables import Layers, Tables, local
from convsvc.dialects.mcore.tables.attention import GQA
from convsvc.dialects.mcore.tables.feed_forward import DENSE
from convsvc.dialects.mindspeed_mm.tables.text import CANONICAL_GLU, FORMAT
from convsvc.models.scope import Rows
from convsvc.tensors.declare import ANYWHERE, row

PATCHES = (
    row("encoder.patch_embed.proj.weight",        PATCH_EMBED,       "hidden channel frame patch_row patch_column"),
    row("encoder.patch_embed.proj.bias",          PATCH_EMBED_BIAS,  "hidden"),
)  # fmt: skip
POSITION_ROWS = (row("encoder.pos_embed.weight",  POSITIONS,         "position hidden"),)  # fmt: skip
PROJECTOR = (
    row("projector.layernorm.weight",             MERGER_NORM,       "hidden"),
    row("projector.layernorm.bias",               MERGER_NORM_BIAS,  "hidden"),
    row("projector.encoder.linear_fc1.weight",    MERGER_FC1,        "merged (patches hidden)",  tp="merged"),
    row("projector.encoder.linear_fc1.bias",      MERGER_FC1_BIAS,   "merged",                   tp="merged"),
    row("projector.encoder.linear_fc2.weight",    MERGER_FC2,        "out merged",               tp="merged"),
    row("projector.encoder.linear_fc2.bias",      MERGER_FC2_BIAS,   "out"),
)  # fmt: skip
DEEP_MERGER = (
    row("deepstack_layer.layernorm.weight",           DEEP_NORM,       "(patches hidden)"),
    row("deepstack_layer.layernorm.bias",             DEEP_NORM_BIAS,  "(patches hidden)"),
    row("deepstack_layer.encoder.linear_fc1.weight",  DEEP_FC1,        "merged (patches hidden)",  tp="merged"),
    row("deepstack_layer.encoder.linear_fc1.bias",    DEEP_FC1_BIAS,   "merged",                   tp="merged"),
    row("deepstack_layer.encoder.linear_fc2.weight",  DEEP_FC2,        "out merged",               tp="merged"),
    row("deepstack_layer.encoder.linear_fc2.bias",    DEEP_FC2_BIAS,   "out"),
)  # fmt: skip
# All queries, all keys, all values, cut over the ranks with no regard to heads.
CANONICAL_ATTENTION = (
    row("self_attention.linear_qkv.weight",   PACKED_QKV,                                       tp=ANYWHERE),
    row("self_attention.linear_qkv.bias",     PACKED_QKV_BIAS,                                  tp=ANYWHERE),
    row("self_attention.linear_proj.weight",  PROJ,         "hidden (group query head_dim)",    tp="group"),
    row("self_attention.linear_proj.bias",    PROJ_BIAS,    "hidden"),
)  # fmt: skip


def tower(name: str, stack: str, layer: Rows, before: Rows, after: Rows) -> Tables:
    """A module's tables: rows before, in and behind its layers; `stack` goes before a layer's number."""
    layers = Layers(dense=layer, sparse=layer, experts=(), grouped=())
    none: Rows = ()
    return Tables(
        FORMAT,
        layers,
        layers,
        embedding=before,
        norms=after,
        norms_after_mtp=after,
        outputs=none,
        output_biases=none,
        tied=none,
        mtp=none,
        last_embedding=none,
        prefix=f"{name}.",
        stack=stack,
    )


QWEN2_VISION = tower("image_encoder", "encoder.blocks.layers.", local.NORMS + GQA + DENSE, PATCHES, PROJECTOR)
_CANONICAL = Layers(dense=local.NORMS + CANONICAL_ATTENTION + DENSE, sparse=(), experts=(), grouped=())
CANONICAL_QWEN2_VISION = replace(QWEN2_VISION, local=_CANONICAL, te=_CANONICAL)
_CANONICAL_GATED = replace(_CANONICAL, dense=local.NORMS + CANONICAL_ATTENTION + CANONICAL_GLU)
CANONICAL_QWEN25_VISION = replace(QWEN2_VISION, local=_CANONICAL_GATED, te=_CANONICAL_GATED)
QWEN3_VISION = tower("image_encoder", "encoder.blocks.layers.", local.NORMS + GQA + DENSE + DEEP_MERGER, PATCHES + POSITION_ROWS, PROJECTOR)
