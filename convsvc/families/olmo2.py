"""OLMo 2 and 3: Llama with norms after its blocks only, and norms over all heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM_WIDE
from convsvc.blocks.norms import NORMS_ONLY_AFTER
from convsvc.families import llama2
from convsvc.families.olmo import BIASES
from convsvc.models.beyond import windows

FAMILY = replace(
    llama2.FAMILY,
    name="olmo2",
    title="OLMo 2, OLMo 3",
    model_types=("olmo2", "olmo3"),
    architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    norms=NORMS_ONLY_AFTER,
    attention=GQA + QK_NORM_WIDE,
    flags=BIASES,
    advice=(windows,),
)
