"""GPT-2: LayerNorms, learned positions, and matrices that lie input before output.

transformers 5.23: GPT2Attention splits c_attn [hidden, 3 * hidden] (Conv1D) into queries, keys and values of all heads.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS, fourfold_sizes
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS, gqa_sizes
from convsvc.families import gpt_bigcode
from convsvc.models.facts import Facts
from convsvc.models.scope import Rows
from convsvc.tensors.declare import row

CONV1D = (
    row("attn.c_attn.weight", QKV, "hidden (slot group head_dim)"),
    row("attn.c_attn.bias", QKV_BIAS, "(slot group head_dim)"),
    row("attn.c_proj.weight", PROJ, "(group query head_dim) hidden"),
    row("attn.c_proj.bias", PROJ_BIAS, "hidden"),
)
CONV1D_MLP = (
    row("mlp.c_fc.weight", FC1.at(glu="0"), "hidden ffn"),
    row("mlp.c_proj.weight", FC2, "ffn hidden"),
    row("mlp.c_fc.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.c_proj.bias", FC2_BIAS, "hidden"),
)


def apart(module: str) -> Rows:
    """Queries, keys and values of heads that share none, in a matrix each."""
    return tuple(row(f"{module}.{side}_proj.weight", QKV.at(slot=str(at)), "(group head_dim) hidden") for at, side in enumerate("qkv"))


def multi_head_sizes(facts: Facts) -> dict[str, int]:
    """A group for each head; positions, the learned ones."""
    heads = facts.number("heads", default=facts.first_number(("num_heads",)))  # GPT-Neo's word, which is Mamba-2's for something else
    groups = {**facts.values, "num_attention_heads": heads, "num_key_value_heads": heads}
    positions = facts.first_number(("n_positions", "max_position_embeddings", "n_ctx"), default=1024)
    return {**gqa_sizes(Facts(groups, facts.origin)), "position": positions, "three_hidden": 3 * facts.number("hidden")}


FAMILY = replace(
    gpt_bigcode.FAMILY,
    name="gpt2",
    title="GPT-2",
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel",),
    attention=CONV1D,
    mlp=CONV1D_MLP,
    sizes=(multi_head_sizes, fourfold_sizes),
    layer=None,
    fields=("n_positions",),
)
