"""A model's configuration as rank files show it, for cutting them anew where nobody has the config.json. Pure.

Names and shapes say everything but how many heads there are: a head counts as one wide, so that a cut within a head is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.mindspeed_mm.checkpoint import Opened
from convsvc.dialects.mindspeed_mm.settings import Grid, size_of
from convsvc.errors import SourceError
from convsvc.models.facts import Facts

Shapes = Mapping[str, tuple[int, ...]]
TEXT, VISION = "text_decoder.decoder.layers.N.", "image_encoder.encoder.blocks.layers.N."
QKV, PROJ, FC2 = "self_attention.linear_qkv.weight", "self_attention.linear_proj.weight", "mlp.linear_fc2.weight"
EXPERT_FC2 = "mlp.experts.local_experts.N.linear_fc2.weight"
# Families whose towers are told by names and shapes: what the configuration calls a tower's width, its blocks' and the decoder's.
WIDTHS: Mapping[str, tuple[str, str]] = {
    "qwen2-vl": ("embed_dim", "hidden_size"),
    "videoalign": ("embed_dim", "hidden_size"),
    "qwen2.5-vl": ("hidden_size", "out_hidden_size"),
    "qwen3-vl": ("hidden_size", "out_hidden_size"),
    "qwen3-vl-moe": ("hidden_size", "out_hidden_size"),
}


def seen_facts(checkpoint: Checkpoint, family: str, grid: Grid) -> Facts:
    """The configuration that the names and shapes show. Raises SourceError for a family whose towers they do not show."""
    opened: Opened = checkpoint.settings
    if family not in WIDTHS:
        raise SourceError(
            f"{checkpoint.path}: rank files of MindSpeed-MM do not show all sizes of {family}",
            do="state source.config_dir, a directory with the model's config.json",
        )
    shapes = _shapes(checkpoint)
    try:
        values = _text(shapes, size_of(opened.source, "text_decoder") if opened.source.tp_size else grid.tp, grid.ep)
        tower = size_of(opened.source, "image_encoder") if opened.source.tp_size or opened.source.vit_tp_size else grid.tp
        values["vision_config"] = _vision(shapes, family, tower)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise SourceError(
            f"{checkpoint.path}: the rank files do not show the sizes of a {family} model ({error})",
            do="state source.config_dir, a directory with the model's config.json",
        ) from None
    cells = _layers(checkpoint, TEXT), _layers(checkpoint, VISION)
    values["num_hidden_layers"] = sum(cells[0].values())
    values["vision_config"]["depth"] = sum(cells[1].values())
    deep = _deep(checkpoint, cells[1])
    values["vision_config"] |= {"deepstack_visual_indexes": deep} if deep else {}
    return Facts(values, f"{checkpoint.path}, by its names and shapes")


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """A tensor's shape on the first rank that has it, by its name without numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for (_, name), found in sorted(checkpoint.found.items()):
        shapes.setdefault(re.sub(r"\.\d+\.", ".N.", name.partition("/")[2]), found.tensor.shape)
    return shapes


def _text(shapes: Shapes, tp: int, ep: int) -> dict[str, Any]:
    vocab, hidden = shapes["text_decoder.embedding.word_embeddings.weight"]
    width = shapes[TEXT + "self_attention.q_layernorm.weight"][0] if TEXT + "self_attention.q_layernorm.weight" in shapes else 1
    queries = shapes[TEXT + PROJ][1] * tp // width
    if TEXT + QKV in shapes:
        groups = (shapes[TEXT + QKV][0] * tp // width - queries) // 2
    else:
        groups = shapes[TEXT + "self_attention.k_proj.weight"][0] * tp // width
    values: dict[str, Any] = {
        "hidden_size": hidden, "vocab_size": vocab * tp, "num_attention_heads": queries, "num_key_value_heads": groups, "head_dim": width,
        "tie_word_embeddings": "text_decoder.output_layer.weight" not in shapes, "intermediate_size": 1,
    }  # fmt: skip
    if TEXT + FC2 in shapes:
        values["intermediate_size"] = shapes[TEXT + FC2][1] * tp
    if TEXT + EXPERT_FC2 in shapes:
        values |= {"num_experts": shapes[TEXT + "mlp.router.weight"][0], "moe_intermediate_size": shapes[TEXT + EXPERT_FC2][1] * tp}
    return values


def _vision(shapes: Shapes, family: str, tp: int) -> dict[str, Any]:
    name, out_name = WIDTHS[family]
    hidden, channels, frames, patch, _ = shapes["image_encoder.encoder.patch_embed.proj.weight"]
    ffn = shapes[VISION + FC2][1] * tp
    out, merged = shapes["image_encoder.projector.encoder.linear_fc2.weight"]
    positions = shapes.get("image_encoder.encoder.pos_embed.weight", (0,))[0]
    return {
        name: hidden, out_name: out, "mlp_ratio": ffn / hidden, "intermediate_size": ffn, "num_heads": hidden, "in_channels": channels,
        "temporal_patch_size": frames, "patch_size": patch, "spatial_merge_size": isqrt(merged * tp // hidden),
        "num_position_embeddings": positions,
    }  # fmt: skip


def _layers(checkpoint: Checkpoint, stack: str) -> dict[tuple[str, str], int]:
    """The layers of a stack in each stage and chunk of the first tensor rank, in their order."""
    pattern = re.compile(re.escape(stack).replace("N", r"(\d+)"))
    counts: dict[tuple[str, str], int] = {}
    for file, chunk, stored in _first_rank(checkpoint):
        if match := pattern.match(stored):
            counts[chunk, file] = max(counts.get((chunk, file), 0), int(match[1]) + 1)
    return dict(sorted(counts.items()))


def _first_rank(checkpoint: Checkpoint) -> Iterator[tuple[str, str, str]]:
    for file, name in checkpoint.found:
        folder = Path(file).parent.name
        if re.match(r"mp_rank_00(_|$)", folder):
            chunk, _, stored = name.partition("/")
            yield folder, chunk, stored


def _deep(checkpoint: Checkpoint, counts: Mapping[tuple[str, str], int]) -> list[int]:
    """The tower's layers that a further merger looks at, by their numbers in the whole stack."""
    before: dict[tuple[str, str], int] = {}
    total = 0
    for cell, count in counts.items():
        before[cell] = total
        total += count
    pattern = re.compile(re.escape(VISION).replace("N", r"(\d+)") + r"deepstack_layer\.layernorm\.weight")
    found = ((before[chunk, file], pattern.match(stored)) for file, chunk, stored in _first_rank(checkpoint) if pattern.match(stored))
    return sorted(first + int(match[1]) for first, match in found if match)
