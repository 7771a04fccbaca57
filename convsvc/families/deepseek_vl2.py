"""DeepSeek-VL2: DeepSeek-V2 with SigLIP's tower, and two tokens between the tiles of a picture.

Names and order: modeling_deepseek_vl_v2.py of the published models.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks import siglip
from convsvc.blocks.mla import has_query_rank
from convsvc.blocks.moe import ROUTER_BIASES
from convsvc.families import deepseek2_lite
from convsvc.models.around import around
from convsvc.models.facts import Facts
from convsvc.models.towers import Tower, flatten

INSIDE = (("language_config",),)
VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=siglip.sizes,
    before=siglip.BEFORE,
    layer=siglip.LAYER,
    after=siglip.AFTER,
    layer_prefix="vision.blocks.{layer}.",
    count=siglip.num_layers,
    unsure=("position", "ffn"),
)
TOKENS = Tower(name="image_tokens", part=None, sizes=siglip.token_sizes, before=siglip.TOKENS)


def _without_rank(facts: Facts) -> bool:
    return not has_query_rank(flatten(facts, INSIDE))


# Of the larger ones only; a checkpoint of another goes without.
BIASES = tuple(replace(row, optional=True) for row in ROUTER_BIASES)
FAMILY = around(
    deepseek2_lite.FAMILY,
    towers=(VISION, TOKENS),
    body="language.model.",
    head="language.",
    inside=INSIDE,
    name="deepseek-vl2",
    title="DeepSeek-VL2",
    model_types=("deepseek_vl_v2",),
    architectures=("DeepseekVLV2ForCausalLM",),
    experts=deepseek2_lite.FAMILY.experts + BIASES,
    stacked=False,
    distinguish=_without_rank,
)
