"""GLM-4.1V's tower: gated blocks without biases, learnt positions, and a gated projector behind a convolution.

Facts: transformers, models/glm4v (modeling_glm4v.py, the Vision classes). Sizes: ffn, the blocks' width (the decoder's hidden size);
side, a square of joined patches; inner, the projector's width.
"""

from __future__ import annotations

from convsvc.blocks.glu import GLU
from convsvc.blocks.gqa import PACKED_QKV, PROJ
from convsvc.blocks.vit import NORMS, PATCH_BIASES, PATCHES, attention_sizes, patch_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

POSITIONS = logical("embeddings.position_embedding.weight", "position hidden")
CONV_NORM = logical("post_conv_layernorm.weight", "hidden")
LAST_NORM = logical("final_layernorm.weight", "hidden")
DOWNSAMPLE = logical("downsample.weight", "out hidden side_row side_column")
DOWNSAMPLE_BIAS = logical("downsample.bias", "out")
PROJECTOR = logical("projector.proj.weight", "out input")
PROJECTOR_NORM = logical("projector.post_projection_norm.weight", "out")
PROJECTOR_NORM_BIAS = logical("projector.post_projection_norm.bias", "out")
PROJECTOR_GATE = logical("projector.gate_proj.weight", "inner out")
PROJECTOR_UP = logical("projector.up_proj.weight", "inner out")
PROJECTOR_DOWN = logical("projector.down_proj.weight", "out inner")

BEFORE = (
    *PATCHES,
    *PATCH_BIASES,
    row("embeddings.position_embedding.weight", POSITIONS, "position hidden"),
    row("post_conv_layernorm.weight", CONV_NORM, "hidden"),
)
LAYER = (
    *NORMS,
    row("attn.qkv.weight", PACKED_QKV),
    row("attn.proj.weight", PROJ, "hidden (group query head_dim)"),
    *GLU,
)
AFTER = (
    row("post_layernorm.weight", LAST_NORM, "hidden"),
    row("downsample.weight", DOWNSAMPLE, "out hidden side_row side_column"),
    row("downsample.bias", DOWNSAMPLE_BIAS, "out"),
    row("merger.proj.weight", PROJECTOR, "out input"),
    row("merger.post_projection_norm.weight", PROJECTOR_NORM, "out"),
    row("merger.post_projection_norm.bias", PROJECTOR_NORM_BIAS, "out"),
    row("merger.gate_proj.weight", PROJECTOR_GATE, "inner out"),
    row("merger.up_proj.weight", PROJECTOR_UP, "inner out"),
    row("merger.down_proj.weight", PROJECTOR_DOWN, "out inner"),
)


def sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's."""
    hidden, out = own.number("hidden_size"), own.number("out_hidden_size", default=whole.number("hidden"))
    side, patch = own.number("spatial_merge_size", default=2), own.number("patch_size", default=14)
    return {
        "hidden": hidden, "glu": 2, "ffn": out, "out": out, "input": out, "inner": own.number("intermediate_size"), "side_row": side,
        "side_column": side, "position": (own.number("image_size", default=336) // max(patch, 1)) ** 2,
    } | attention_sizes(own, hidden, "num_heads") | patch_sizes(own)  # fmt: skip
