"""Qwen3-VL: Qwen3, dense or with experts, with a tower whose layers' patches also go to the decoder's first layers (deepstack).

The published models with experts stack them, input axis first, and so are they written; transformers 5 saves them output first, under the
same names, which is read too.
"""

from __future__ import annotations

from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER
from convsvc.blocks.vit import (
    ATTENTION,
    LINEAR_MERGER,
    LINEAR_MLP,
    NORM_BIASES,
    NORMS,
    PATCH_BIASES,
    PATCHES,
    POSITION_ROWS,
    deep_mergers,
    qwen3_vl_sizes,
)
from convsvc.families import qwen3, qwen3_moe
from convsvc.models.around import around
from convsvc.models.towers import Tower
from convsvc.tensors.declare import row

VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=qwen3_vl_sizes,
    before=PATCHES + PATCH_BIASES + POSITION_ROWS,
    layer=NORMS + NORM_BIASES + ATTENTION + LINEAR_MLP,
    after=LINEAR_MERGER,
    prefix="model.visual.",
    layer_prefix="blocks.{layer}.",
    count="depth",
    beside=deep_mergers,
)
STACKED_EXPERTS = (
    row("mlp.gate.weight", ROUTER, "expert hidden"),
    row("mlp.experts.gate_up_proj", EXPERT_FC1, "expert hidden (glu expert_ffn)"),
    row("mlp.experts.down_proj", EXPERT_FC2, "expert expert_ffn hidden"),
)

QWEN3_VL = around(
    qwen3.FAMILY,
    towers=(VISION,),
    body="model.language_model.",
    name="qwen3-vl",
    title="Qwen3-VL",
    model_types=("qwen3_vl",),
    architectures=("Qwen3VLForConditionalGeneration",),
)
QWEN3_VL_MOE = around(
    qwen3_moe.FAMILY,
    towers=(VISION,),
    body="model.language_model.",
    name="qwen3-vl-moe",
    title="Qwen3-VL-MoE",
    model_types=("qwen3_vl_moe",),
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    experts=STACKED_EXPERTS,
)
FAMILIES = (QWEN3_VL, QWEN3_VL_MOE)
