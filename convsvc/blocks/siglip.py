"""SigLIP's tower as DeepSeek-VL2 has it (timm's), with the projector that joins patches.

Its queries, keys and values are one matrix, which is never taken apart here: nobody cuts it. Facts: modeling_deepseek_vl_v2.py and
siglip_vit.py of the published models. Sizes: thrice and twice the width; projected, the projector's width; out, the decoder's.
"""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.blocks.vit import MLP, NORM_BIASES, NORMS
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, is_count, shown
from convsvc.tensors.declare import logical, row

PATCHES = logical("patch_embed.proj.weight", "hidden channel patch_row patch_column")
PATCHES_BIAS = logical("patch_embed.proj.bias", "hidden")
POSITIONS = logical("pos_embed", "one position hidden")
QKV = logical("attn.qkv.weight", "thrice input")
QKV_BIAS = logical("attn.qkv.bias", "thrice")
PROJ = logical("attn.proj.weight", "hidden input")
PROJ_BIAS = logical("attn.proj.bias", "hidden")
LAST_NORM = logical("norm.weight", "hidden")
LAST_NORM_BIAS = logical("norm.bias", "hidden")
# A learnt query that looks at all patches.
POOL_LATENT = logical("attn_pool.latent", "one single hidden")
POOL_Q = logical("attn_pool.q.weight", "hidden input")
POOL_Q_BIAS = logical("attn_pool.q.bias", "hidden")
POOL_KV = logical("attn_pool.kv.weight", "twice input")
POOL_KV_BIAS = logical("attn_pool.kv.bias", "twice")
POOL_PROJ = logical("attn_pool.proj.weight", "hidden input")
POOL_PROJ_BIAS = logical("attn_pool.proj.bias", "hidden")
POOL_NORM = logical("attn_pool.norm.weight", "hidden")
POOL_NORM_BIAS = logical("attn_pool.norm.bias", "hidden")
POOL_FC1 = logical("attn_pool.mlp.fc1.weight", "ffn hidden")
POOL_FC1_BIAS = logical("attn_pool.mlp.fc1.bias", "ffn")
POOL_FC2 = logical("attn_pool.mlp.fc2.weight", "hidden ffn")
POOL_FC2_BIAS = logical("attn_pool.mlp.fc2.bias", "hidden")
PROJECTOR_FC1 = logical("projector.layers.0.weight", "projected joined")
PROJECTOR_FC1_BIAS = logical("projector.layers.0.bias", "projected")
PROJECTOR_FC2 = logical("projector.layers.2.weight", "out projected")
PROJECTOR_FC2_BIAS = logical("projector.layers.2.bias", "out")
NEWLINE = logical("image_newline", "out")
SEPARATOR = logical("view_seperator", "out")

BEFORE = (
    row("vision.patch_embed.proj.weight", PATCHES, "hidden channel patch_row patch_column"),
    row("vision.patch_embed.proj.bias", PATCHES_BIAS, "hidden"),
    row("vision.pos_embed", POSITIONS, "one position hidden"),
)
LAYER = (
    *NORMS,
    *NORM_BIASES,
    row("attn.qkv.weight", QKV, "thrice input"),
    row("attn.qkv.bias", QKV_BIAS, "thrice"),
    row("attn.proj.weight", PROJ, "hidden input"),
    row("attn.proj.bias", PROJ_BIAS, "hidden"),
    *MLP,
)
ENDS = (
    (LAST_NORM, "hidden"), (LAST_NORM_BIAS, "hidden"), (POOL_LATENT, "one single hidden"), (POOL_Q, "hidden input"),
    (POOL_Q_BIAS, "hidden"), (POOL_KV, "twice input"), (POOL_KV_BIAS, "twice"), (POOL_PROJ, "hidden input"), (POOL_PROJ_BIAS, "hidden"),
    (POOL_NORM, "hidden"), (POOL_NORM_BIAS, "hidden"), (POOL_FC1, "ffn hidden"), (POOL_FC1_BIAS, "ffn"), (POOL_FC2, "hidden ffn"),
    (POOL_FC2_BIAS, "hidden"),
)  # fmt: skip
PROJECTOR = (
    (PROJECTOR_FC1, "projected joined"), (PROJECTOR_FC1_BIAS, "projected"), (PROJECTOR_FC2, "out projected"), (PROJECTOR_FC2_BIAS, "out"),
)  # fmt: skip
AFTER = tuple(row(f"vision.{each.name}", each, order) for each, order in ENDS) + tuple(
    row(each.name, each, order) for each, order in PROJECTOR
)
TOKENS = (row("image_newline", NEWLINE, "out"), row("view_seperator", SEPARATOR, "out"))
# A layer's, by the logical tensors' names; the blocks' own are vit's.
LAYER_LOGICALS = (
    ("norm1.weight", INPUT_NORM, "hidden"), ("norm1.bias", INPUT_NORM_BIAS, "hidden"), ("norm2.weight", PRE_MLP_NORM, "hidden"),
    ("norm2.bias", PRE_MLP_NORM_BIAS, "hidden"), ("mlp.fc1.weight", FC1, "(glu ffn) hidden"), ("mlp.fc1.bias", FC1_BIAS, "(glu ffn)"),
    ("mlp.fc2.weight", FC2, "hidden ffn"), ("mlp.fc2.bias", FC2_BIAS, "hidden"), (QKV.name, QKV, "thrice input"),
    (QKV_BIAS.name, QKV_BIAS, "thrice"), (PROJ.name, PROJ, "hidden input"), (PROJ_BIAS.name, PROJ_BIAS, "hidden"),
)  # fmt: skip


def num_layers(own: Facts) -> int:
    """How many layers there are; the field is called `layers` here, which is no other models' name for it. Raises SourceError."""
    value = own.get("layers")
    if not is_count(value):
        raise SourceError(f"{own.origin}: layers is {shown(value)}; it must be a whole number")
    return int(value)


def sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's. Raises SourceError where its feed-forward blocks have no whole width."""
    hidden, patch = own.number("width"), own.number("patch_size")
    ratio = own.get("mlp_ratio", default=4)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise SourceError(f"{own.origin}: mlp_ratio is {ratio!r}; it must be a number")
    projector = whole.get("projector_config", default={})
    wide = Facts(projector if isinstance(projector, dict) else {}, f"{whole.origin}, projector_config")
    out = wide.number("n_embed", default=whole.number("hidden"))
    joined = wide.number("input_dim", default=hidden) * wide.number("downsample_ratio", default=2) ** 2
    return {
        "hidden": hidden, "input": hidden, "thrice": 3 * hidden, "twice": 2 * hidden, "glu": 1, "ffn": int(hidden * ratio), "channel": 3,
        "patch_row": patch, "patch_column": patch, "position": (own.number("image_size", default=384) // max(patch, 1)) ** 2, "one": 1,
        "single": 1, "joined": joined, "projected": out * wide.number("mlp_ratio", default=1), "out": out,
    }  # fmt: skip


def token_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """out: the decoder's width."""
    return {"out": whole.number("hidden")}
