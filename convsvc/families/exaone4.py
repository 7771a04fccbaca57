"""EXAONE 4: OLMo 2 with norms on each head."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, QK_NORM
from convsvc.families import olmo2

FAMILY = replace(
    olmo2.FAMILY,
    name="exaone4",
    title="EXAONE 4",
    model_types=("exaone4",),
    architectures=("Exaone4ForCausalLM",),
    attention=GQA + QK_NORM,
    flags=(),
)
