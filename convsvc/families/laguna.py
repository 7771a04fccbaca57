"""Laguna: Qwen3-MoE with a gate on every head's output, another number of heads in some layers, and a shared expert."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU, glu_sizes
from convsvc.blocks.gqa import GQA, QK_NORM, gqa_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIAS, SHARED_EXPERT, moe_sizes, shared_sizes
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

HEAD_GATE = logical("self_attention.head_gate.weight", "group query hidden")
GATE = (row("self_attn.g_proj.weight", HEAD_GATE, "(group query) hidden"),)
BIAS = row("mlp.experts.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", also=("mlp.gate.e_score_correction_bias",))

SHARED = tuple(replace(each, also=(each.stored.replace("shared_expert.", "shared_experts."),)) for each in SHARED_EXPERT[:3])


def laguna_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer with as many heads as it has, gated where the configuration says so."""
    made = standard_layer(family, facts, layer)
    heads = facts.items("num_attention_heads_per_layer", int)
    count = heads[layer] if heads and layer < len(heads) else facts.number("heads")
    query = count // max(facts.num_groups, 1)
    gate = GATE if facts.flag("gating", default=True) else ()
    return replace(made, rows=made.rows + gate, sizes={"query": query, "slot": query + 2})


FAMILY = replace(
    llama2.FAMILY,
    name="laguna",
    title="Laguna",
    model_types=("laguna",),
    architectures=("LagunaForCausalLM",),
    attention=GQA + QK_NORM,
    mlp=GLU,
    experts=(*MOE, BIAS, *SHARED),
    flags=(),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    layer=laguna_layer,
    names={"experts": "num_experts", "shared": "shared_expert_intermediate_size"},
    fields=("num_attention_heads_per_layer", "gating"),
    advice=(windows,),
)
