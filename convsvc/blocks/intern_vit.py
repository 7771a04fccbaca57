"""InternViT: a tower with a class token, learnt positions, and factors on what each block adds; its projector.

Facts: modeling_intern_vit.py and modeling_internvl_chat.py of the published checkpoints. Sizes: one (1), positions with the class
token's, projected (the projector's width, the decoder's).
"""

from __future__ import annotations

from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.blocks.vit import MLP, attention_sizes
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

CLASS = logical("embeddings.class_embedding", "one single hidden")
PATCHES = logical("embeddings.patch_embedding.weight", "hidden channel patch_row patch_column")
PATCHES_BIAS = logical("embeddings.patch_embedding.bias", "hidden")
POSITIONS = logical("embeddings.position_embedding", "one position hidden")
ATTENTION_SCALE = logical("ls1", "hidden")
MLP_SCALE = logical("ls2", "hidden")
# One norm over all heads.
Q_NORM = logical("self_attention.q_layernorm.weight", "hidden")
K_NORM = logical("self_attention.k_layernorm.weight", "hidden")
PROJECTOR_NORM = logical("projector.norm.weight", "patches hidden")
PROJECTOR_NORM_BIAS = logical("projector.norm.bias", "patches hidden")
PROJECTOR_FC1 = logical("projector.linear_fc1.weight", "projected patches hidden")
PROJECTOR_FC1_BIAS = logical("projector.linear_fc1.bias", "projected")
PROJECTOR_FC2 = logical("projector.linear_fc2.weight", "out projected")
PROJECTOR_FC2_BIAS = logical("projector.linear_fc2.bias", "out")

EMBEDDINGS = (
    row("vision_model.embeddings.class_embedding", CLASS, "one single hidden"),
    row("vision_model.embeddings.patch_embedding.weight", PATCHES, "hidden channel patch_row patch_column"),
    row("vision_model.embeddings.patch_embedding.bias", PATCHES_BIAS, "hidden"),
    row("vision_model.embeddings.position_embedding", POSITIONS, "one position hidden"),
)
LAYER = (
    row("norm1.weight", INPUT_NORM, "hidden"),
    row("norm2.weight", PRE_MLP_NORM, "hidden"),
    # A LayerNorm's; the 6B model has RMSNorms.
    row("norm1.bias", INPUT_NORM_BIAS, "hidden", optional=True),
    row("norm2.bias", PRE_MLP_NORM_BIAS, "hidden", optional=True),
    row("attn.qkv.weight", PACKED_QKV),
    row("attn.proj.weight", PROJ, "hidden (group query head_dim)"),
    row("attn.proj.bias", PROJ_BIAS, "hidden"),
    row("ls1", ATTENTION_SCALE, "hidden"),
    row("ls2", MLP_SCALE, "hidden"),
    *MLP,
)
QKV_BIAS_ROWS = (row("attn.qkv.bias", PACKED_QKV_BIAS),)
QK_NORMS = (
    row("attn.q_norm.weight", Q_NORM, "hidden"),
    row("attn.k_norm.weight", K_NORM, "hidden"),
)
PROJECTOR = (
    row("mlp1.0.weight", PROJECTOR_NORM, "(patches hidden)"),
    row("mlp1.0.bias", PROJECTOR_NORM_BIAS, "(patches hidden)"),
    row("mlp1.1.weight", PROJECTOR_FC1, "projected (patches hidden)"),
    row("mlp1.1.bias", PROJECTOR_FC1_BIAS, "projected"),
    row("mlp1.3.weight", PROJECTOR_FC2, "out projected"),
    row("mlp1.3.bias", PROJECTOR_FC2_BIAS, "out"),
)

# transformers' names for the same tower (models/internvl).
HF_EMBEDDINGS = (
    row("vision_tower.embeddings.cls_token", CLASS, "one single hidden"),
    row("vision_tower.embeddings.patch_embeddings.projection.weight", PATCHES, "hidden channel patch_row patch_column"),
    row("vision_tower.embeddings.patch_embeddings.projection.bias", PATCHES_BIAS, "hidden"),
    row("vision_tower.embeddings.position_embeddings", POSITIONS, "one position hidden"),
)
HF_LAYER = (
    row("layernorm_before.weight", INPUT_NORM, "hidden"),
    row("layernorm_after.weight", PRE_MLP_NORM, "hidden"),
    row("layernorm_before.bias", INPUT_NORM_BIAS, "hidden", optional=True),
    row("layernorm_after.bias", PRE_MLP_NORM_BIAS, "hidden", optional=True),
    row("attention.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("attention.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("attention.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("attention.projection_layer.weight", PROJ, "hidden (group query head_dim)"),
    row("attention.projection_layer.bias", PROJ_BIAS, "hidden"),
    row("lambda_1", ATTENTION_SCALE, "hidden"),
    row("lambda_2", MLP_SCALE, "hidden"),
    *MLP,
)
HF_QKV_BIASES = (
    row("attention.q_proj.bias", QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    row("attention.k_proj.bias", QKV_BIAS.at(slot="query"), "(group head_dim)"),
    row("attention.v_proj.bias", QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
)
HF_QK_NORMS = (
    row("attention.q_norm.weight", Q_NORM, "hidden"),
    row("attention.k_norm.weight", K_NORM, "hidden"),
)
HF_PROJECTOR = (
    row("multi_modal_projector.layer_norm.weight", PROJECTOR_NORM, "(patches hidden)"),
    row("multi_modal_projector.layer_norm.bias", PROJECTOR_NORM_BIAS, "(patches hidden)"),
    row("multi_modal_projector.linear_1.weight", PROJECTOR_FC1, "projected (patches hidden)"),
    row("multi_modal_projector.linear_1.bias", PROJECTOR_FC1_BIAS, "projected"),
    row("multi_modal_projector.linear_2.weight", PROJECTOR_FC2, "out projected"),
    row("multi_modal_projector.linear_2.bias", PROJECTOR_FC2_BIAS, "out"),
)


def layer(own: Facts, number: int) -> LayerRows:
    """A layer's rows: a bias on queries, keys and values, and norms of them, are there or not."""
    biased = QKV_BIAS_ROWS if own.flag("qkv_bias", default=True) else ()
    return LayerRows(LAYER + biased + (QK_NORMS if own.flag("qk_normalization") else ()))


def hf_layer(own: Facts, number: int) -> LayerRows:
    """As `layer`, by transformers' names and fields."""
    biased = HF_QKV_BIASES if own.flag("attention_bias") else ()
    return LayerRows(HF_LAYER + biased + (HF_QK_NORMS if own.flag("use_qk_norm") else ()))


def hf_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """As `sizes`; pictures and patches have two sides here. Raises SourceError where they are no squares."""
    sides = {name: own.items(name, int) for name in ("image_size", "patch_size") if isinstance(own.get(name), list | tuple)}
    oblong = [name for name, both in sides.items() if both is None or len(set(both)) != 1]
    if oblong:
        raise SourceError(f"{own.origin}: {oblong[0]} is {own.get(oblong[0])}; it must be as high as wide")
    return sizes(Facts({**own.values, **{name: both[0] for name, both in sides.items() if both}}, own.origin), whole)


def sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's. Raises SourceError where a picture is no whole number of patches."""
    hidden, patch, image = own.number("hidden_size"), own.number("patch_size"), own.number("image_size")
    ratio = whole.get("downsample_ratio", default=0.5)
    if not patch or image % patch or ratio not in (0.5, 0.25, 1.0, 1):
        raise SourceError(f"{own.origin}: image_size {image}, patch_size {patch}, downsample_ratio {ratio}: patches do not come out even")
    out = whole.number("hidden")
    return {
        "hidden": hidden, "glu": 1, "ffn": own.number("intermediate_size"), "channel": own.number("num_channels", default=3),
        "patch_row": patch, "patch_column": patch, "position": (image // patch) ** 2 + 1, "one": 1, "single": 1,
        "patches": round(1 / ratio) ** 2, "projected": out, "out": out,
    } | attention_sizes(own, hidden, "num_attention_heads")  # fmt: skip
