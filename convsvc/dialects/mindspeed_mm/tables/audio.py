"""Qwen2.5-Omni's tower for sound. Keys have no bias: zeros stand for it in the one of queries, keys and values.

Facts: what mm-convert writes (commit 57069cd5).
"""

from __future__ import annotations

from convsvc.blocks.audio import CONV1, CONV1_BIAS, CONV2, CONV2_BIAS, LAST_NORM, LAST_NORM_BIAS, MARKERS, OUT, OUT_BIAS
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.dialects.mcore.tables import local
from convsvc.dialects.mcore.tables.feed_forward import DENSE
from convsvc.dialects.mindspeed_mm.tables.vision import tower
from convsvc.tensors.declare import row

BEFORE = (
    row("encoder.conv1.weight",                CONV1,       "hidden mel tap"),
    row("encoder.conv1.bias",                  CONV1_BIAS,  "hidden"),
    row("encoder.conv2.weight",                CONV2,       "hidden input tap"),
    row("encoder.conv2.bias",                  CONV2_BIAS,  "hidden"),
    row("encoder.audio_bos_eos_token.weight",  MARKERS,     "marker out"),
)  # fmt: skip
ATTENTION = (
    row("self_attention.linear_qkv.weight",   QKV,        "(group slot head_dim) hidden",   tp="group"),
    row("self_attention.linear_qkv.bias",     QKV_BIAS,   "(group slot head_dim)",          tp="group", hole=("slot", "query")),
    row("self_attention.linear_proj.weight",  PROJ,       "hidden (group query head_dim)",  tp="group"),
    row("self_attention.linear_proj.bias",    PROJ_BIAS,  "hidden"),
)  # fmt: skip
AFTER = (
    row("encoder.ln_post.weight",  LAST_NORM,       "hidden"),
    row("encoder.ln_post.bias",    LAST_NORM_BIAS,  "hidden"),
    row("encoder.proj.weight",     OUT,             "out hidden"),
    row("encoder.proj.bias",       OUT_BIAS,        "out"),
)  # fmt: skip
AUDIO = tower("audio_encoder", "encoder.blocks.layers.", local.NORMS + ATTENTION + DENSE, BEFORE, AFTER)
