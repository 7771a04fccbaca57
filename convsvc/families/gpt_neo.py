"""GPT-Neo: GPT-2 with queries, keys and values apart, and matrices of linear layers."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import PROJ, PROJ_BIAS
from convsvc.families import gpt2, gpt_bigcode
from convsvc.families.gpt2 import apart, multi_head_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def neo_sizes(facts: Facts) -> dict[str, int]:
    """glu (1) and ffn, four times the hidden size where nothing is said."""
    return {"glu": 1, "ffn": facts.number("ffn", default=4 * facts.number("hidden"))}


FAMILY = replace(
    gpt2.FAMILY,
    name="gpt-neo",
    title="GPT-Neo",
    model_types=("gpt_neo",),
    architectures=("GPTNeoForCausalLM",),
    attention=(
        *apart("attn.attention"),
        row("attn.attention.out_proj.weight", PROJ, "hidden (group query head_dim)"),
        row("attn.attention.out_proj.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=gpt_bigcode.FAMILY.mlp,
    sizes=(multi_head_sizes, neo_sizes),
    fields=("max_position_embeddings", "attention_types"),
    ignored=(r"\.attn\.attention\.(bias|masked_bias)$",),
    names={"layers": "num_layers", "heads": "num_heads", "ffn": "intermediate_size", "epsilon": "layer_norm_epsilon"},
)
