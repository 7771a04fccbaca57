"""MiMo-V2-Flash: layers with a window have twice the key-value heads and a sink a head; values are narrower than keys; experts.

transformers 5.23, MiMoV2FlashAttention; as published the numbers of layers with a window have names of their own (swa_...).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIASES, moe_sizes, sparse_layers
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows

ATTENTION = (
    own("self_attn.q_proj.weight", "query_inner hidden", over="hidden"),
    own("self_attn.k_proj.weight", "key_inner hidden", over="hidden"),
    own("self_attn.v_proj.weight", "value_inner hidden", over="hidden"),
    # Published in bf16 where the others are float8 (MiMo-V2-Flash, ignored_layers).
    own("self_attn.o_proj.weight", "hidden output_inner"),
)
SINKS = (own("self_attn.attention_sink_bias", "sinks", also=("self_attn.sinks",)),)


def has_window(facts: Facts, layer: int) -> bool:
    """Whether a layer has a window: layer_types, hybrid_layer_pattern (1), else all but the first and every sixth."""
    kinds, pattern = facts.items("layer_types", str), facts.items("hybrid_layer_pattern", int)
    if kinds is not None:
        return bool(kinds[min(layer, len(kinds) - 1)] == "sliding_attention")
    if pattern is not None:
        return bool(pattern[min(layer, len(pattern) - 1)])
    return layer > 0 and (layer + 1) % 6 != 0


def heads_of(facts: Facts, window: bool) -> dict[str, int]:
    """The widths of a layer's projections."""
    heads, groups, width = facts.number("heads"), facts.num_groups, facts.number("head_dim")
    value = facts.first_number(("v_head_dim",), default=width)
    if window:
        heads = facts.first_number(("swa_num_attention_heads",), default=heads)
        groups = facts.first_number(("swa_num_key_value_heads",), default=2 * groups)
        width = facts.first_number(("swa_head_dim",), default=width)
        value = facts.first_number(("swa_v_head_dim",), default=value)
    inner = {"query_inner": heads * width, "key_inner": groups * width, "value_inner": groups * value, "output_inner": heads * value}
    return {**inner, "sinks": heads}


def mimo_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Attention of either kind, and experts or a dense block."""
    window, is_sparse = has_window(facts, layer), sparse_layers(facts)(layer)
    sinks = SINKS if facts.flag("add_swa_attention_sink_bias" if window else "add_full_attention_sink_bias", default=window) else ()
    rows = family.norms + family.attention + sinks + (family.experts if is_sparse else family.mlp)
    return LayerRows(rows, dense=not is_sparse, sizes=heads_of(facts, window))


FAMILY = replace(
    llama2.FAMILY,
    name="mimo-v2",
    title="MiMo-V2-Flash",
    model_types=("mimo_v2_flash",),
    architectures=("MiMoV2FlashForCausalLM",),
    attention=ATTENTION,
    experts=MOE + ROUTER_BIASES,
    flags=(),
    sizes=(lambda facts: heads_of(facts, window=False), glu_sizes, moe_sizes),
    layer=mimo_layer,
    names={"experts": "n_routed_experts"},
    fields=("layer_types", "hybrid_layer_pattern", "v_head_dim", "mlp_layer_types"),
    advice=(windows,),
)
