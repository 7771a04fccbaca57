"""CodeGen: GPT-J whose queries, keys and values lie in one tensor, in quarters.

transformers 5.23: attention and feed-forward block are computed side by side after one norm, which Megatron does not.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.own import own
from convsvc.families import gptj

FAMILY = replace(
    gptj.FAMILY,
    name="codegen",
    title="CodeGen",
    model_types=("codegen",),
    architectures=("CodeGenForCausalLM",),
    # Queries, values and keys of four groups of heads, as they were cut over the ranks of a TPU.
    attention=(own("attn.qkv_proj.weight", "three_hidden hidden", over="hidden"), gptj.FAMILY.attention[-1]),
)
