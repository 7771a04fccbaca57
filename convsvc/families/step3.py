"""Step 3.5 and 3.7 (text): Laguna's gate on every head, norms added to 1, other heads in layers with a window, experts stacked by matrix.

transformers 5.23, Step3p7TextModel; the published names are those that its loader renames (conversion_mapping.py, step3p7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convsvc.blocks.glu import GLU, GLU_BIASES, GLU_PACKED, glu_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, PACKED_EXPERTS, ROUTER, ROUTER_BIAS, SHARED_EXPERTS, moe_sizes
from convsvc.families import laguna, llama2
from convsvc.models.beyond import windows
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

EXPERTS = (
    row("moe.gate.weight", ROUTER, "expert hidden", also=("mlp.gate.weight",)),
    row("moe.router_bias", ROUTER_BIAS, "expert", keep="F32", optional=True, also=("mlp.gate.e_score_correction_bias",)),
    row("moe.gate_proj.weight", EXPERT_FC1.at(glu="0"), "expert expert_ffn hidden"),
    row("moe.up_proj.weight", EXPERT_FC1.at(glu="1"), "expert expert_ffn hidden"),
    row("moe.down_proj.weight", EXPERT_FC2, "expert hidden expert_ffn"),
    *(replace(each, stored=each.stored.replace("mlp.shared_experts", "share_expert"), also=(each.stored,)) for each in SHARED_EXPERTS),
)


def sparse_facts(facts: Facts) -> Facts:
    """Which layers have experts, in the usual field: moe_layers_enum names them ("3,4,5"); where nothing says it, all but three."""
    named, fields = facts.get("moe_layers_enum"), ("mlp_layer_types", "moe_layer_freq", "first_k_dense_replace")
    if named is None and facts.get(*fields) is not None:
        return facts
    items = named.split(",") if isinstance(named, str) else named if isinstance(named, list) else range(3, facts.num_layers)
    chosen = {int(each) for each in items if str(each).strip().isdigit()}
    kinds = ["sparse" if layer in chosen else "dense" for layer in range(facts.num_layers)]
    return Facts({**facts.values, "mlp_layer_types": kinds}, facts.origin)


def heads_of(facts: Facts, layer: int) -> int:
    """Query heads: of layers with a window as they say, of the others the usual number."""
    kinds, other = facts.items("layer_types", str) or (), facts.get("attention_other_setting")
    usual = facts.number("heads")
    if layer >= len(kinds) or kinds[layer] != "sliding_attention":
        return usual
    stated = other.get("num_attention_heads") if isinstance(other, Mapping) else None
    return facts.first_number(("num_sliding_attention_heads",), default=stated if isinstance(stated, int) else usual)


def step_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer with as many heads as it has."""
    query = heads_of(facts, layer) // max(facts.num_groups, 1)
    made = standard_layer(family, sparse_facts(facts), layer)
    return replace(made, sizes={"query": query, "slot": query + 2})


def step_sizes(facts: Facts) -> dict[str, int]:
    """Groups and heads under this family's names, and the shared expert's width."""
    groups = facts.first_number(("num_attention_groups",), default=facts.num_groups)
    shared = facts.first_number(("share_expert_dim", "share_expert_dims", "moe_shared_expert_intermediate_size"))
    return {**gqa_sizes(Facts({**facts.values, "num_key_value_heads": groups}, facts.origin)), "shared_ffn": shared}


FAMILY = replace(
    llama2.FAMILY,
    name="step3",
    title="Step 3.5, Step 3.7 (text)",
    model_types=("step3p5", "step3p7"),
    architectures=("Step3p5ForCausalLM", "Step3p7FlashForCausalLM", "Step3p7ForCausalLM"),
    attention=GQA + QK_NORM + laguna.GATE,
    experts=EXPERTS,
    packed=(GLU_PACKED[0], *PACKED_EXPERTS),
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", GLU_BIASES)),
    mlp=GLU,
    sizes=(step_sizes, glu_sizes, moe_sizes),
    layer=step_layer,
    zero_centred=True,
    names={"experts": "num_experts", "shared": "share_expert_dim"},
    fields=("layer_types", "mlp_layer_types", "moe_layers_enum", "num_sliding_attention_heads", "attention_other_setting"),
    advice=(windows,),
)
