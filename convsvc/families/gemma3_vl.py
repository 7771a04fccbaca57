"""Gemma 3 with pictures: Gemma 3 with SigLIP's tower, whose patches one matrix turns into tokens, as wide as the decoder.

Published under the names of the first release (`vision_tower.vision_model.`); transformers 5 writes `vision_tower.`, and reads both. Its
projector is stored as (tower's width) x (decoder's width), unlike a linear layer (models/gemma3, Gemma3MultiModalProjector).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks import siglip_apart
from convsvc.families import gemma3
from convsvc.models.around import around
from convsvc.models.facts import Facts
from convsvc.models.towers import Tower
from convsvc.tensors.declare import logical, row

PROJECTION = logical("projector.linear.weight", "hidden out")
PROJECTOR_NORM = logical("projector.norm.weight", "hidden")
PROJECTOR = (
    row("multi_modal_projector.mm_input_projection_weight", PROJECTION, "hidden out"),
    row("multi_modal_projector.mm_soft_emb_norm.weight", PROJECTOR_NORM, "hidden"),
)
VISION = "vision_tower.vision_model."


def _has_head(facts: Facts) -> bool:
    return siglip_apart.has_head(TOWER.own(facts))


TOWER = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=siglip_apart.sizes,
    before=siglip_apart.BEFORE,
    layer=siglip_apart.LAYER,
    after=siglip_apart.AFTER,
    prefix=VISION,
    layer_prefix="encoder.layers.{layer}.",
    count="num_hidden_layers",
)
HEAD = Tower(
    name="image_head",
    part="vision_config",
    sizes=siglip_apart.sizes,
    after=siglip_apart.HEAD,
    prefix=VISION,
    there=_has_head,
)
PROJECTOR_TOWER = replace(HEAD, name="image_projector", after=PROJECTOR, prefix="", there=None)

FAMILY = around(
    gemma3.FAMILY,
    towers=(TOWER, HEAD, PROJECTOR_TOWER),
    body="language_model.model.",
    head="language_model.",
    name="gemma3-vl",
    title="Gemma 3 (pictures)",
    model_types=("gemma3",),
    architectures=("Gemma3ForConditionalGeneration",),
    spelling=((r"^vision_tower\.(?!vision_model\.)", VISION),),
)
