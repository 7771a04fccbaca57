"""Qwen2.5-Omni's thinker: Qwen2.5-VL with queries, keys and values apart in its tower, and a tower for sound.

What speaks (`talker.`, `token2wav.`) is no part of what is trained: it is carried as it is.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks import audio
from convsvc.blocks.glu import GLU, GLU_BIASES
from convsvc.blocks.vit import ATTENTION_APART, NORMS
from convsvc.families import qwen25
from convsvc.families.qwen2_vl import QWEN25_VISION
from convsvc.models.around import around
from convsvc.models.towers import Tower

VISION = replace(QWEN25_VISION, layer=NORMS + ATTENTION_APART + GLU + GLU_BIASES, prefix="thinker.visual.")
AUDIO = Tower(
    name="audio_encoder",
    part="audio_config",
    sizes=audio.audio_sizes,
    before=audio.CONVOLUTIONS + audio.MARKER_ROWS,
    layer=audio.LAYER,
    after=audio.ENDS,
    prefix="thinker.audio_tower.",
    count="encoder_layers",
)
FAMILY = around(
    qwen25.FAMILY,
    towers=(VISION, AUDIO),
    body="thinker.model.",
    head="thinker.",
    inside=(("thinker_config",), ("text_config",)),
    name="qwen2.5-omni",
    title="Qwen2.5-Omni",
    model_types=("qwen2_5_omni",),
    architectures=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
    carries=(r"^talker\.", r"^token2wav\."),
)
