"""DeepSeek-V3.2: DeepSeek-V3 with an indexer in every layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.dsa import INDEXER, dsa_sizes
from convsvc.families import deepseek3
from convsvc.models.family import Family

FAMILY: Family = replace(
    deepseek3.FAMILY,
    name="deepseek32",
    title="DeepSeek-V3.2",
    model_types=("deepseek_v32",),
    architectures=("DeepseekV32ForCausalLM",),
    attention=deepseek3.FAMILY.attention + INDEXER,
    sizes=(*deepseek3.FAMILY.sizes, dsa_sizes),
    megatron={**deepseek3.FAMILY.megatron, "enable_dsa_indexer": True},
)
