"""A model's configuration as rank files show it, for cutting them anew where nobody has the config.json. Pure.

Names and shapes say everything but how many heads there are: a head counts as one wide, so that a cut within a head is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import isqrt
from pathlib import Path
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.mindspeed_mm.checkpoint import Opened
from convsvc.dialects.mindspeed_mm.seen import rank_of, smaller
from convsvc.dialects.mindspeed_mm.settings import Counts, Grid, size_of, table_of
from convsvc.errors import SourceError
from convsvc.models.facts import Facts

Shapes = Mapping[str, tuple[int, ...]]
# Chunk and stage; the layers there.
Cell = tuple[int, int]
Cells = dict[Cell, int]
PATCHES = "image_encoder.encoder.patch_embed.proj.weight"
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
        ranks = size_of(opened.source, "image_encoder") if opened.source.tp_size or opened.source.vit_tp_size else grid.tp
        values["vision_config"] = _vision(shapes, family, ranks)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise SourceError(
            f"{checkpoint.path}: the rank files do not show the sizes of a {family} model ({error})",
            do="state source.config_dir, a directory with the model's config.json",
        ) from None
    values["num_hidden_layers"] = sum(_layers(checkpoint, grid, TEXT).values())
    tower = _one_copy(checkpoint, grid, _layers(checkpoint, grid, VISION))
    values["vision_config"]["depth"] = sum(tower.values())
    deep = _deep(checkpoint, grid, tower)
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
    hidden, channels, frames, patch, _ = shapes[PATCHES]
    ffn = shapes[VISION + FC2][1] * tp
    out, merged = shapes["image_encoder.projector.encoder.linear_fc2.weight"]
    positions = shapes.get("image_encoder.encoder.pos_embed.weight", (0,))[0]
    return {
        name: hidden, out_name: out, "mlp_ratio": ffn / hidden, "intermediate_size": ffn, "num_heads": hidden, "in_channels": channels,
        "temporal_patch_size": frames, "patch_size": patch, "spatial_merge_size": isqrt(merged * tp // hidden),
        "num_position_embeddings": positions,
    }  # fmt: skip


def _layers(checkpoint: Checkpoint, grid: Grid, stack: str) -> Cells:
    """The layers of a stack in each chunk and stage of the first tensor and expert rank, in their order."""
    pattern = re.compile(re.escape(stack).replace("N", r"(\d+)"))
    counts = dict.fromkeys(((chunk, stage) for chunk in range(grid.chunks) for stage in range(grid.pp)), 0)
    for cell, stored in _first_rank(checkpoint, grid):
        if match := pattern.match(stored):
            counts[cell] = max(counts[cell], int(match[1]) + 1)
    return counts


def _first_rank(checkpoint: Checkpoint, grid: Grid) -> Iterator[tuple[Cell, str]]:
    """Chunk and stage, and a tensor's name in it."""
    for file, name in checkpoint.found:
        rank = rank_of(Path(file).parent.name, grid)
        if rank is not None and not rank.t and not rank.e:
            chunk, _, stored = name.partition("/")
            yield (int(chunk.removeprefix("model") or 0), rank.p), stored


def _one_copy(checkpoint: Checkpoint, grid: Grid, counts: Cells) -> Cells:
    """The cells of the tower's first copy: there are more where its list is shorter than the pipeline. Raises SourceError."""
    opened: Opened = checkpoint.settings
    stated = table_of(opened.source.vit_pp_layers, "source.vit_pp_layers")
    copies = sum(stored == PATCHES for _, stored in _first_rank(checkpoint, grid))
    tables = [stated] if stated is not None else [part for part in smaller(_table(counts, grid)) if _times(part, grid) == copies]
    if not tables:
        raise SourceError(
            f"{checkpoint.path}: {copies} stages have the beginning of a vision tower, and the layers do not show where it begins again",
            do="state source.vit_pp_layers, or source.config_dir, a directory with the model's config.json",
        )
    rows, columns = len(tables[0]), len(tables[0][0])
    return {cell: count for cell, count in counts.items() if cell[0] < rows and cell[1] < columns}


def _table(counts: Cells, grid: Grid) -> Counts:
    return tuple(tuple(counts[chunk, stage] for stage in range(grid.pp)) for chunk in range(grid.chunks))


def _times(table: Counts, grid: Grid) -> int:
    """How often a table begins in the grid."""
    return -(-grid.chunks // len(table)) * -(-grid.pp // len(table[0]))


def _deep(checkpoint: Checkpoint, grid: Grid, counts: Cells) -> list[int]:
    """The tower's layers that a further merger looks at, by their numbers in the whole stack."""
    before = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
    pattern = re.compile(re.escape(VISION).replace("N", r"(\d+)") + r"deepstack_layer\.layernorm\.weight")
    found = ((before[cell], pattern.match(stored)) for cell, stored in _first_rank(checkpoint, grid) if cell in before)
    return sorted(first + int(match[1]) for first, match in found if match)
