"""Towers for images: a patch embedding, layers of plain attention, and what turns patches into a decoder's tokens.

Attention is multi-head: a group is one query with its key and value (blocks.gqa). Sizes of a tower are its own: hidden is its width, not
the decoder's, which is `out`. Facts: transformers, models/qwen2_vl, qwen2_5_vl, qwen3_vl (modeling_*.py, the Vision classes).
"""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.scope import Rows
from convsvc.tensors.declare import logical, row

# A convolution whose stride is its size: a matrix over the pixels of a patch, of some frames.
PATCH_EMBED = logical("patch_embed.proj.weight", "hidden channel frame patch_row patch_column")
PATCH_EMBED_BIAS = logical("patch_embed.proj.bias", "hidden")
# What turns patches into tokens: a norm over a patch, neighbouring patches joined, two matrices.
MERGER_NORM = logical("projector.layernorm.weight", "hidden")
MERGER_NORM_BIAS = logical("projector.layernorm.bias", "hidden")
MERGER_FC1 = logical("projector.encoder.linear_fc1.weight", "merged patches hidden")
MERGER_FC1_BIAS = logical("projector.encoder.linear_fc1.bias", "merged")
MERGER_FC2 = logical("projector.encoder.linear_fc2.weight", "out merged")
MERGER_FC2_BIAS = logical("projector.encoder.linear_fc2.bias", "out")

ATTENTION = (
    row("attn.qkv.weight", PACKED_QKV),
    row("attn.qkv.bias", PACKED_QKV_BIAS),
    row("attn.proj.weight", PROJ, "hidden (group query head_dim)"),
    row("attn.proj.bias", PROJ_BIAS, "hidden"),
)
MLP = (
    row("mlp.fc1.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mlp.fc1.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.fc2.weight", FC2, "hidden ffn"),
    row("mlp.fc2.bias", FC2_BIAS, "hidden"),
)
NORMS = (
    row("norm1.weight", INPUT_NORM, "hidden"),
    row("norm2.weight", PRE_MLP_NORM, "hidden"),
)
NORM_BIASES = (
    row("norm1.bias", INPUT_NORM_BIAS, "hidden"),
    row("norm2.bias", PRE_MLP_NORM_BIAS, "hidden"),
)
PATCHES = (row("patch_embed.proj.weight", PATCH_EMBED, "hidden channel frame patch_row patch_column"),)
MERGER = (
    row("merger.ln_q.weight", MERGER_NORM, "hidden"),
    row("merger.mlp.0.weight", MERGER_FC1, "merged (patches hidden)"),
    row("merger.mlp.0.bias", MERGER_FC1_BIAS, "merged"),
    row("merger.mlp.2.weight", MERGER_FC2, "out merged"),
    row("merger.mlp.2.bias", MERGER_FC2_BIAS, "out"),
)
MERGER_BIASES = (row("merger.ln_q.bias", MERGER_NORM_BIAS, "hidden"),)

# Position embeddings that are learnt.
POSITIONS = logical("pos_embed.weight", "position hidden")
# Further mergers, whose tokens go to further layers of the decoder; they belong to the tower's layer that they look at.
DEEP_NORM = logical("deepstack_layer.layernorm.weight", "patches hidden")
DEEP_NORM_BIAS = logical("deepstack_layer.layernorm.bias", "patches hidden")
DEEP_FC1 = logical("deepstack_layer.encoder.linear_fc1.weight", "merged patches hidden")
DEEP_FC1_BIAS = logical("deepstack_layer.encoder.linear_fc1.bias", "merged")
DEEP_FC2 = logical("deepstack_layer.encoder.linear_fc2.weight", "out merged")
DEEP_FC2_BIAS = logical("deepstack_layer.encoder.linear_fc2.bias", "out")

# Queries, keys and values apart (Qwen2.5-Omni).
ATTENTION_APART = (
    row("attn.q.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("attn.k.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("attn.v.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("attn.q.bias", QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    row("attn.k.bias", QKV_BIAS.at(slot="query"), "(group head_dim)"),
    row("attn.v.bias", QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
    row("attn.proj.weight", PROJ, "hidden (group query head_dim)"),
    row("attn.proj.bias", PROJ_BIAS, "hidden"),
)
LINEAR_MLP = (
    row("mlp.linear_fc1.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mlp.linear_fc1.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.linear_fc2.weight", FC2, "hidden ffn"),
    row("mlp.linear_fc2.bias", FC2_BIAS, "hidden"),
)
PATCH_BIASES = (row("patch_embed.proj.bias", PATCH_EMBED_BIAS, "hidden"),)
POSITION_ROWS = (row("pos_embed.weight", POSITIONS, "position hidden"),)
LINEAR_MERGER = (
    row("merger.norm.weight", MERGER_NORM, "hidden"),
    row("merger.norm.bias", MERGER_NORM_BIAS, "hidden"),
    row("merger.linear_fc1.weight", MERGER_FC1, "merged (patches hidden)"),
    row("merger.linear_fc1.bias", MERGER_FC1_BIAS, "merged"),
    row("merger.linear_fc2.weight", MERGER_FC2, "out merged"),
    row("merger.linear_fc2.bias", MERGER_FC2_BIAS, "out"),
)
DEEP_MERGER = (
    row("norm.weight", DEEP_NORM, "(patches hidden)"),
    row("norm.bias", DEEP_NORM_BIAS, "(patches hidden)"),
    row("linear_fc1.weight", DEEP_FC1, "merged (patches hidden)"),
    row("linear_fc1.bias", DEEP_FC1_BIAS, "merged"),
    row("linear_fc2.weight", DEEP_FC2, "out merged"),
    row("linear_fc2.bias", DEEP_FC2_BIAS, "out"),
)


def deep_mergers(own: Facts, layer: int) -> tuple[tuple[str, Rows], ...]:
    """What a layer has under another prefix: the merger that looks at it (`deepstack_visual_indexes`)."""
    layers = own.items("deepstack_visual_indexes", int) or ()
    return tuple((f"deepstack_merger_list.{number}.", DEEP_MERGER) for number, at in enumerate(layers) if at == layer)


def attention_sizes(own: Facts, hidden: int, *names: str) -> dict[str, int]:
    """group, query (1), slot (3), head_dim of a tower this wide; `names` are the field that counts heads. Raises SourceError."""
    field = next((name for name in names if own.get(name) is not None), names[0])
    heads = own.number(field)
    if not heads or hidden % heads:
        raise SourceError(f"{own.origin}: a width of {hidden} is not a multiple of {heads} attention heads ({field})")
    return {"group": heads, "query": 1, "slot": 3, "head_dim": hidden // heads}


def patch_sizes(own: Facts) -> dict[str, int]:
    """channel, frame, patch_row, patch_column; transformers' defaults where the configuration is silent."""
    patch = own.number("patch_size", default=14)
    channels = own.first_number(("in_channels", "in_chans"), default=3)
    return {"channel": channels, "frame": own.number("temporal_patch_size", default=2), "patch_row": patch, "patch_column": patch}


def merger_sizes(own: Facts, hidden: int, out: int) -> dict[str, int]:
    """patches (that become one token), merged (their joint width), out (the decoder's width)."""
    patches = own.number("spatial_merge_size", default=2) ** 2
    return {"patches": patches, "merged": patches * hidden, "out": out}


def qwen2_vl_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """Of Qwen2-VL's tower: `embed_dim` wide; its `hidden_size` is the decoder's."""
    hidden = own.number("embed_dim")
    sizes = {"hidden": hidden, "glu": 1, "ffn": _ffn(own, hidden)}
    out = own.number("hidden_size", default=whole.number("hidden"))
    return sizes | attention_sizes(own, hidden, "num_heads") | patch_sizes(own) | merger_sizes(own, hidden, out)


def qwen25_vl_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """Of Qwen2.5-VL's: gated feed-forward blocks of a stated width."""
    hidden = own.number("hidden_size")
    sizes = {"hidden": hidden, "glu": 2, "ffn": own.number("intermediate_size")}
    out = own.number("out_hidden_size", default=whole.number("hidden"))
    return sizes | attention_sizes(own, hidden, "num_heads") | patch_sizes(own) | merger_sizes(own, hidden, out)


def qwen3_vl_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """Of Qwen3-VL's: as Qwen2.5-VL's, ungated, with learnt positions."""
    return qwen25_vl_sizes(own, whole) | {"glu": 1, "position": own.number("num_position_embeddings")}


def _ffn(own: Facts, hidden: int) -> int:
    ratio = own.get("mlp_ratio", default=4)
    width = hidden * ratio if isinstance(ratio, int | float) and not isinstance(ratio, bool) else 0
    if not width or int(width) != width:
        raise SourceError(f"{own.origin}: mlp_ratio {ratio!r} makes no width of {hidden}")
    return int(width)
