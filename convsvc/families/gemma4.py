"""Gemma 4 (text): Gemma 3 whose layers that see everything have other heads, and may take their values from the keys.

A large one adds experts to the dense block (transformers 5.23, Gemma4TextDecoderLayer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING_ROWS, FINAL_NORM_ROWS
from convsvc.blocks.glu import GLU
from convsvc.blocks.gqa import GQA, K_NORM, PROJ, Q_NORM
from convsvc.blocks.norms import NORMS_AROUND
from convsvc.blocks.own import own
from convsvc.families import gemma3
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows, Rows
from convsvc.tensors.declare import logical, row

# Queries and keys apart: a layer may have no value, or no key either.
QUERY = logical("self_attention.only_query.weight", "group query head_dim hidden")
KEY = logical("self_attention.only_key.weight", "group head_dim hidden")
VALUE = logical("self_attention.only_value.weight", "group head_dim hidden")
EXPERT_FC1 = logical("own.experts.gate_up_proj", "expert glu expert_ffn hidden")
EXPERT_FC2 = logical("own.experts.down_proj", "expert hidden expert_ffn")

QUERIES = (
    row("self_attn.q_proj.weight", QUERY, "(group query head_dim) hidden"),
    row("self_attn.q_norm.weight", Q_NORM, "head_dim"),
    row("self_attn.o_proj.weight", PROJ, "hidden (group query head_dim)"),
)
KEYS = (
    row("self_attn.k_proj.weight", KEY, "(group head_dim) hidden"),
    row("self_attn.k_norm.weight", K_NORM, "head_dim"),
)
VALUES = (row("self_attn.v_proj.weight", VALUE, "(group head_dim) hidden"),)
SCALAR = (own("layer_scalar", "single"),)
PER_LAYER = (
    own("per_layer_input_gate.weight", "layer_input hidden"),
    own("per_layer_projection.weight", "hidden layer_input"),
    own("post_per_layer_input_norm.weight", "hidden"),
)
MOE = (
    own("router.scale", "hidden"),
    own("router.per_expert_scale", "expert"),
    own("router.proj.weight", "expert hidden"),
    row("experts.gate_up_proj", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("experts.down_proj", EXPERT_FC2, "expert hidden expert_ffn"),
    own("post_feedforward_layernorm_1.weight", "hidden"),
    own("post_feedforward_layernorm_2.weight", "hidden"),
    own("pre_feedforward_layernorm_2.weight", "hidden"),
)
# One by one, as quantisers save them.
UNPACKED: Rows = (
    row("experts.{expert}.gate_proj.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("experts.{expert}.up_proj.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("experts.{expert}.down_proj.weight", EXPERT_FC2, "hidden expert_ffn"),
)


def is_full(facts: Facts) -> Callable[[int], bool]:
    """Which layers see everything: as layer_types says, else every sixth, and the last."""
    kinds, last = facts.items("layer_types", str), facts.num_layers - 1
    return lambda layer: layer == last or (kinds[layer] == "full_attention" if kinds else (layer + 1) % 6 == 0)


def heads_of(facts: Facts, layer: int) -> Mapping[str, int]:
    """The heads' number and width in a layer."""
    groups, width, full = facts.num_groups, facts.number("head_dim"), is_full(facts)(layer)
    if full:
        width = facts.first_number(("global_head_dim",), default=512)
        equal = facts.flag("attention_k_eq_v", default=True)
        groups = facts.first_number(("num_global_key_value_heads",), default=groups) if equal else groups
    # transformers 5 writes what it has made of these: {"1": {"head_dim": 512, "num_key_value_heads": 1}}.
    listed = facts.get("per_layer_config")
    stated = listed.get(str(layer)) if isinstance(listed, Mapping) else None
    if isinstance(stated, Mapping):
        here = Facts({**facts.values, **stated}, f"{facts.origin}, per_layer_config")
        groups, width = here.num_groups, here.number("head_dim")
    query = facts.number("heads") // max(groups, 1)
    return {"group": groups, "query": query, "slot": query + 2, "head_dim": width}


def gemma4_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """What the layer has of attention, its dense block, and what lies beside."""
    borrows = layer >= facts.num_layers - facts.number("num_kv_shared_layers", default=0)
    no_values = facts.flag("attention_k_eq_v") and is_full(facts)(layer)
    keys = () if borrows else KEYS if no_values else KEYS + VALUES
    sizes = dict(heads_of(facts, layer))
    if borrows and facts.flag("use_double_wide_mlp"):
        sizes["ffn"] = 2 * facts.number("ffn")
    beside = SCALAR + (PER_LAYER if facts.get("hidden_size_per_layer_input") else ()) + (MOE if facts.flag("enable_moe_block") else ())
    return LayerRows(NORMS_AROUND + QUERIES + keys + GLU + beside, sizes=sizes)


def gemma4_sizes(facts: Facts) -> dict[str, int]:
    """The sizes of a layer with a window, and of what only some models have (0 where it is not there)."""
    layer_input = facts.number("hidden_size_per_layer_input", default=0)
    experts = {"expert": facts.number("experts"), "expert_ffn": facts.number("expert_ffn")} if facts.flag("enable_moe_block") else {}
    heads, groups = facts.number("heads"), facts.num_groups
    sizes = {"group": groups, "query": heads // max(groups, 1), "slot": heads // max(groups, 1) + 2, "head_dim": facts.number("head_dim")}
    beside = {"layer_input": layer_input, "all_layer_inputs": layer_input * facts.num_layers, "single": 1}
    vocab = facts.number("vocab_size_per_layer_input", default=facts.number("vocab"))
    return {**sizes, "glu": 2, "ffn": facts.number("ffn"), **beside, "layer_vocab": vocab if layer_input else 0, **experts}


FAMILY = replace(
    gemma3.FAMILY,
    name="gemma4",
    title="Gemma 4 (text)",
    model_types=("gemma4_text", "gemma4_unified_text"),
    architectures=("Gemma4ForCausalLM",),
    attention=GQA,
    packed=UNPACKED,
    sizes=(gemma4_sizes,),
    layer=gemma4_layer,
    embedding=EMBEDDING_ROWS,
    final_norm=FINAL_NORM_ROWS,
    flags=(),
    zero_centred=False,
    distinguish=lambda facts: not facts.get("hidden_size_per_layer_input"),
    fields=(
        "per_layer_config",
        "attention_k_eq_v",
        "global_head_dim",
        "num_global_key_value_heads",
        "num_kv_shared_layers",
        "enable_moe_block",
    ),
)
