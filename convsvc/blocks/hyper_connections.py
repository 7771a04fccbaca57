"""Hyper-connections (DeepSeek-V4): several residual streams, mixed before and after each part of a layer, joined at the end.

Sizes: stream, how many; mix = stream * (stream + 2), the weights that reading, writing and mixing streams need; mix_scale (3), a scale
for each of these three; joined = stream; single (1). All of it is small: no rank cuts it.
"""

from __future__ import annotations

from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

ATTENTION_MIX_BASE = logical("attn_mhc.hc_base", "mix")
ATTENTION_MIX = logical("attn_mhc.hc_fn.weight", "mix stream hidden")
ATTENTION_MIX_SCALE = logical("attn_mhc.hc_scale", "mix_scale")
MLP_MIX_BASE = logical("mlp_mhc.hc_base", "mix")
MLP_MIX = logical("mlp_mhc.hc_fn.weight", "mix stream hidden")
MLP_MIX_SCALE = logical("mlp_mhc.hc_scale", "mix_scale")
JOIN_BASE = logical("hc_head.hc_base", "joined")
JOIN = logical("hc_head.hc_fn.weight", "joined stream hidden")
JOIN_SCALE = logical("hc_head.hc_scale", "single")
# The norm of the joined streams. Megatron's name for it is not that of a decoder's final norm.
JOINED_NORM = logical("joined_layernorm.weight", "hidden")

HYPER_CONNECTIONS = (
    row("hc_attn_base", ATTENTION_MIX_BASE, "mix", keep="F32"),
    row("hc_attn_fn", ATTENTION_MIX, "mix (stream hidden)", keep="F32"),
    row("hc_attn_scale", ATTENTION_MIX_SCALE, "mix_scale", keep="F32"),
    row("hc_ffn_base", MLP_MIX_BASE, "mix", keep="F32"),
    row("hc_ffn_fn", MLP_MIX, "mix (stream hidden)", keep="F32"),
    row("hc_ffn_scale", MLP_MIX_SCALE, "mix_scale", keep="F32"),
)
JOINED_STREAMS = (
    row("hc_head_base", JOIN_BASE, "joined", keep="F32"),
    row("hc_head_fn", JOIN, "joined (stream hidden)", keep="F32"),
    row("hc_head_scale", JOIN_SCALE, "single", keep="F32"),
)


def stream_sizes(facts: Facts) -> dict[str, int]:
    """All of the module's sizes."""
    streams = facts.number("hc_mult")
    return {"stream": streams, "joined": streams, "mix": streams * (streams + 2), "mix_scale": 3, "single": 1}
