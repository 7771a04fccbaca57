"""GLM-4.1V: GLM-4, whose queries, keys and values always have biases, with a tower for images and films."""

from __future__ import annotations

from convsvc.blocks import glm_vit
from convsvc.blocks.gqa import QKV_BIASES
from convsvc.families import glm4
from convsvc.models.around import around
from convsvc.models.towers import Tower

FAMILY = around(
    glm4.FAMILY,
    towers=(
        Tower(
            name="image_encoder",
            part="vision_config",
            sizes=glm_vit.sizes,
            before=glm_vit.BEFORE,
            layer=glm_vit.LAYER,
            after=glm_vit.AFTER,
            prefix="model.visual.",
            layer_prefix="blocks.{layer}.",
            count="depth",
            unsure=("ffn",),
        ),
    ),
    attention=glm4.FAMILY.attention + QKV_BIASES,
    flags=(),
    body="model.language_model.",
    name="glm4v",
    title="GLM-4.1V",
    model_types=("glm4v",),
    architectures=("Glm4vForConditionalGeneration",),
)
