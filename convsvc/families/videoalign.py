"""VideoAlign's reward model: Qwen2-VL with a head for rewards; its output layer is there, and not trained."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families.qwen2_vl import QWEN2_VL, SPELLING
from convsvc.tensors.declare import logical, row

REWARD = logical("rm_head.weight", "reward hidden")
FAMILY = replace(
    QWEN2_VL,
    name="videoalign",
    title="VideoAlign",
    model_types=(),  # its configuration says Qwen2-VL's: the class tells
    architectures=("Qwen2VLRewardModelBT",),
    output=(),
    tied_output=(),
    heads=(row("rm_head.weight", REWARD, "reward hidden"),),
    sizes=(*QWEN2_VL.sizes, lambda facts: {"reward": facts.number("output_dim", default=3)}),
    spelling=SPELLING,
    carries=(r"^lm_head\.weight$",),
)
