"""DeepSeek-V2-Lite: its queries have no low rank; that is all its weights differ in."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.mla import has_query_rank
from convsvc.families import deepseek2
from convsvc.families.deepseek2 import is_latent

FAMILY = replace(
    deepseek2.FAMILY,
    name="deepseek2-lite",
    title="DeepSeek-V2-Lite",
    distinguish=lambda facts: is_latent(facts) and not has_query_rank(facts),
)
