"""FlexOlmo: OLMo 2 whose feed-forward blocks are experts."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import MOE, sparse_sizes
from convsvc.families import olmo2

FAMILY = replace(
    olmo2.FAMILY,
    name="flex-olmo",
    title="FlexOlmo",
    model_types=("flex_olmo",),
    architectures=("FlexOlmoForCausalLM",),
    mlp=(),
    experts=MOE,
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_experts", "expert_ffn": "intermediate_size"},
)
