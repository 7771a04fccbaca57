"""Pixtral's tower, and Mistral 3's projector, which joins neighbouring patches.

Facts: transformers, models/pixtral and mistral3. Sizes: patches that become one token; out, the decoder's width.
"""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PROJ, QKV
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.vit import attention_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

PATCHES = logical("patch_conv.weight", "hidden channel patch_row patch_column")
FIRST_NORM = logical("ln_pre.weight", "hidden")
PROJECTOR_NORM = logical("projector.norm.weight", "hidden")
JOIN = logical("projector.patch_merger.merging_layer.weight", "hidden joined")
LINEAR_1 = logical("projector.linear_1.weight", "out hidden")
LINEAR_1_BIAS = logical("projector.linear_1.bias", "out")
LINEAR_2 = logical("projector.linear_2.weight", "out input")
LINEAR_2_BIAS = logical("projector.linear_2.bias", "out")

BEFORE = (
    row("vision_tower.patch_conv.weight", PATCHES, "hidden channel patch_row patch_column"),
    row("vision_tower.ln_pre.weight", FIRST_NORM, "hidden"),
)
LAYER = (
    row("attention_norm.weight", INPUT_NORM, "hidden"),
    row("ffn_norm.weight", PRE_MLP_NORM, "hidden"),
    row("attention.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("attention.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("attention.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("attention.o_proj.weight", PROJ, "hidden (group query head_dim)"),
    row("feed_forward.gate_proj.weight", FC1.at(glu="0"), "ffn hidden"),
    row("feed_forward.up_proj.weight", FC1.at(glu="1"), "ffn hidden"),
    row("feed_forward.down_proj.weight", FC2, "hidden ffn"),
)
AFTER = (
    row("multi_modal_projector.norm.weight", PROJECTOR_NORM, "hidden"),
    row("multi_modal_projector.patch_merger.merging_layer.weight", JOIN, "hidden joined"),
    row("multi_modal_projector.linear_1.weight", LINEAR_1, "out hidden"),
    row("multi_modal_projector.linear_2.weight", LINEAR_2, "out input"),
    # multimodal_projector_bias
    row("multi_modal_projector.linear_1.bias", LINEAR_1_BIAS, "out", optional=True),
    row("multi_modal_projector.linear_2.bias", LINEAR_2_BIAS, "out", optional=True),
)


def sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's."""
    hidden, patch, out = own.number("hidden_size"), own.number("patch_size"), whole.number("hidden")
    return {
        "hidden": hidden, "glu": 2, "ffn": own.number("intermediate_size"), "channel": own.number("num_channels", default=3),
        "patch_row": patch, "patch_column": patch, "joined": hidden * whole.number("spatial_merge_size", default=2) ** 2, "out": out,
        "input": out,
    } | attention_sizes(own, hidden, "num_attention_heads")  # fmt: skip
