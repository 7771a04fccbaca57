"""InternVL's tower and projector. Heads that do not divide are spread unevenly, and so are the rows of the embedding.

Facts: what mm-convert writes (commit 57069cd5).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT
from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS
from convsvc.blocks.intern_vit import (
    ATTENTION_SCALE,
    CLASS,
    K_NORM,
    MLP_SCALE,
    PATCHES,
    PATCHES_BIAS,
    POSITIONS,
    PROJECTOR_FC1,
    PROJECTOR_FC1_BIAS,
    PROJECTOR_FC2,
    PROJECTOR_FC2_BIAS,
    PROJECTOR_NORM,
    PROJECTOR_NORM_BIAS,
    Q_NORM,
)
from convsvc.dialects.mcore.tables import local
from convsvc.dialects.mcore.tables.feed_forward import DENSE
from convsvc.dialects.mindspeed_mm.tables.text import TEXT
from convsvc.dialects.mindspeed_mm.tables.vision import tower
from convsvc.tensors.declare import row

EMBEDDINGS = (
    row("encoder.embeddings.class_embedding",         CLASS,         "one single hidden"),
    row("encoder.embeddings.patch_embedding.weight",  PATCHES,       "hidden channel patch_row patch_column"),
    row("encoder.embeddings.patch_embedding.bias",    PATCHES_BIAS,  "hidden"),
    row("encoder.embeddings.position_embedding",      POSITIONS,     "one position hidden"),
)  # fmt: skip
ATTENTION = (
    row("self_attention.linear_qkv.weight",   PACKED_QKV,                                       tp="group", uneven=True),
    row("self_attention.linear_qkv.bias",     PACKED_QKV_BIAS,                                  tp="group", uneven=True),
    row("self_attention.linear_proj.weight",  PROJ,         "hidden (group query head_dim)",    tp="group", uneven=True),
    row("self_attention.linear_proj.bias",    PROJ_BIAS,        "hidden"),
    row("self_attention.q_layernorm.weight",  Q_NORM,           "hidden"),
    row("self_attention.k_layernorm.weight",  K_NORM,           "hidden"),
    row("ls1",                                ATTENTION_SCALE,  "hidden"),
    row("ls2",                                MLP_SCALE,        "hidden"),
)  # fmt: skip
PROJECTOR = (
    row("projector.norm.weight",        PROJECTOR_NORM,       "(patches hidden)"),
    row("projector.norm.bias",          PROJECTOR_NORM_BIAS,  "(patches hidden)"),
    row("projector.linear_fc1.weight",  PROJECTOR_FC1,        "projected (patches hidden)"),
    row("projector.linear_fc1.bias",    PROJECTOR_FC1_BIAS,   "projected"),
    row("projector.linear_fc2.weight",  PROJECTOR_FC2,        "out projected"),
    row("projector.linear_fc2.bias",    PROJECTOR_FC2_BIAS,   "out"),
)  # fmt: skip
INTERN_VIT = tower("image_encoder", "encoder.encoder.layers.", local.NORMS + ATTENTION + DENSE, EMBEDDINGS, PROJECTOR)
INTERN_TEXT = replace(
    TEXT,
    embedding=(row("embedding.word_embeddings.weight", EMBEDDING, "vocab hidden", tp="vocab", uneven=True),),
    outputs=(row("output_layer.weight", OUTPUT, "vocab hidden", tp="vocab", uneven=True),),
    tied=(row("output_layer.weight", EMBEDDING, "vocab hidden", tp="vocab", uneven=True, optional=True),),
)
