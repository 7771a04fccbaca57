"""Qwen2-VL and Qwen2.5-VL: Qwen2 with a tower for images and films, whose patches a merger turns into tokens.

Published under the names of the first release (`model.`, `visual.`), which transformers still writes; a model saved from memory has
`model.language_model.` and `model.visual.`, and its configuration nests the text's.
"""

from __future__ import annotations

from convsvc.blocks.glu import GLU, GLU_BIASES
from convsvc.blocks.vit import ATTENTION, MERGER, MERGER_BIASES, MLP, NORM_BIASES, NORMS, PATCHES, qwen2_vl_sizes, qwen25_vl_sizes
from convsvc.families import qwen25
from convsvc.models.around import around
from convsvc.models.towers import Tower

SPELLING = ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual."))

QWEN2_VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=qwen2_vl_sizes,
    before=PATCHES,
    layer=NORMS + NORM_BIASES + ATTENTION + MLP,
    after=MERGER + MERGER_BIASES,
    prefix="visual.",
    layer_prefix="blocks.{layer}.",
    count="depth",
)
QWEN25_VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=qwen25_vl_sizes,
    before=PATCHES,
    layer=NORMS + ATTENTION + GLU + GLU_BIASES,
    after=MERGER,
    prefix="visual.",
    layer_prefix="blocks.{layer}.",
    count="depth",
)

QWEN2_VL = around(
    qwen25.FAMILY,
    towers=(QWEN2_VISION,),
    name="qwen2-vl",
    title="Qwen2-VL",
    model_types=("qwen2_vl",),
    architectures=("Qwen2VLForConditionalGeneration",),
    spelling=SPELLING,
)
QWEN25_VL = around(
    qwen25.FAMILY,
    towers=(QWEN25_VISION,),
    name="qwen2.5-vl",
    title="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    spelling=SPELLING,
)
FAMILIES = (QWEN2_VL, QWEN25_VL)
