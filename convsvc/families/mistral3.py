"""Mistral 3: Mistral with Pixtral's tower."""

from __future__ import annotations

from convsvc.blocks import pixtral
from convsvc.families import magistral
from convsvc.models.around import around
from convsvc.models.towers import Tower

FAMILY = around(
    magistral.FAMILY,
    towers=(
        Tower(
            name="image_encoder",
            part="vision_config",
            sizes=pixtral.sizes,
            before=pixtral.BEFORE,
            layer=pixtral.LAYER,
            after=pixtral.AFTER,
            layer_prefix="vision_tower.transformer.layers.{layer}.",
            count="num_hidden_layers",
        ),
    ),
    body="language_model.model.",
    head="language_model.",
    name="mistral3",
    title="Mistral 3",
    model_types=("mistral3",),
    architectures=("Mistral3ForConditionalGeneration",),
)
