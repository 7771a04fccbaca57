"""SigLIP's tower as transformers has it: queries, keys and values apart, learnt positions, and a head that few models keep.

Facts: transformers 5.23, models/siglip/modeling_siglip.py. Sizes: one, where the head's query stands; thrice, three times the width.
"""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.blocks.siglip import (
    LAST_NORM,
    LAST_NORM_BIAS,
    PATCHES,
    PATCHES_BIAS,
    POOL_FC1,
    POOL_FC1_BIAS,
    POOL_FC2,
    POOL_FC2_BIAS,
    POOL_LATENT,
    POOL_NORM,
    POOL_NORM_BIAS,
    POOL_PROJ,
    POOL_PROJ_BIAS,
)
from convsvc.blocks.vit import POSITIONS, attention_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

# The head is torch's MultiheadAttention, whose one query is learnt: three matrices over each other.
POOL_QKV = logical("attn_pool.in_proj.weight", "thrice input")
POOL_QKV_BIAS = logical("attn_pool.in_proj.bias", "thrice")

BEFORE = (
    row("embeddings.patch_embedding.weight", PATCHES, "hidden channel patch_row patch_column"),
    row("embeddings.patch_embedding.bias", PATCHES_BIAS, "hidden"),
    row("embeddings.position_embedding.weight", POSITIONS, "position hidden"),
)
LAYER = (
    row("layer_norm1.weight", INPUT_NORM, "hidden"),
    row("layer_norm1.bias", INPUT_NORM_BIAS, "hidden"),
    row("layer_norm2.weight", PRE_MLP_NORM, "hidden"),
    row("layer_norm2.bias", PRE_MLP_NORM_BIAS, "hidden"),
    row("self_attn.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("self_attn.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("self_attn.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("self_attn.q_proj.bias", QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    row("self_attn.k_proj.bias", QKV_BIAS.at(slot="query"), "(group head_dim)"),
    row("self_attn.v_proj.bias", QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
    row("self_attn.out_proj.weight", PROJ, "hidden (group query head_dim)"),
    row("self_attn.out_proj.bias", PROJ_BIAS, "hidden"),
    row("mlp.fc1.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mlp.fc1.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.fc2.weight", FC2, "hidden ffn"),
    row("mlp.fc2.bias", FC2_BIAS, "hidden"),
)
AFTER = (
    row("post_layernorm.weight", LAST_NORM, "hidden"),
    row("post_layernorm.bias", LAST_NORM_BIAS, "hidden"),
)
HEAD = (
    row("head.probe", POOL_LATENT, "one single hidden"),
    row("head.attention.in_proj_weight", POOL_QKV, "thrice input"),
    row("head.attention.in_proj_bias", POOL_QKV_BIAS, "thrice"),
    row("head.attention.out_proj.weight", POOL_PROJ, "hidden input"),
    row("head.attention.out_proj.bias", POOL_PROJ_BIAS, "hidden"),
    row("head.layernorm.weight", POOL_NORM, "hidden"),
    row("head.layernorm.bias", POOL_NORM_BIAS, "hidden"),
    row("head.mlp.fc1.weight", POOL_FC1, "ffn hidden"),
    row("head.mlp.fc1.bias", POOL_FC1_BIAS, "ffn"),
    row("head.mlp.fc2.weight", POOL_FC2, "hidden ffn"),
    row("head.mlp.fc2.bias", POOL_FC2_BIAS, "hidden"),
)


def sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's, and out, the decoder's width; transformers' defaults (SiglipVisionConfig) where the configuration is silent."""
    hidden, patch = own.number("hidden_size", default=768), own.number("patch_size", default=16)
    return {
        "hidden": hidden, "input": hidden, "thrice": 3 * hidden, "one": 1, "single": 1, "glu": 1,
        "ffn": own.number("intermediate_size", default=3072), "channel": own.number("num_channels", default=3), "patch_row": patch,
        "patch_column": patch, "position": (own.number("image_size", default=224) // max(patch, 1)) ** 2, "out": whole.number("hidden"),
    } | attention_sizes(own, hidden, "num_attention_heads")  # fmt: skip


def has_head(own: Facts) -> bool:
    """Whether the tower has the head, which SigLIP has unless a model says otherwise."""
    return own.get("vision_use_head") is not False
