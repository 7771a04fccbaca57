"""MiniMax-01 and MiniMax-M1: lightning attention in most layers, the usual one in the others; experts under Mixtral's names."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, gqa_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_SPARSE_MOE, sparse_sizes
from convsvc.blocks.own import own
from convsvc.errors import SourceError
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows

LIGHTNING = (
    own("self_attn.qkv_proj.weight", "three_inner hidden"),
    own("self_attn.norm.weight", "inner"),
    own("self_attn.output_gate.weight", "inner hidden"),
    own("self_attn.out_proj.weight", "hidden inner"),
)
# What transformers saves beside, and could compute; the published models have none.
DECAYS = tuple(
    replace(each, optional=True)
    for each in (
        own("self_attn.slope_rate", "lightning_head single one"),
        own("self_attn.query_decay", "lightning_head block single"),
        own("self_attn.key_decay", "lightning_head block single"),
        own("self_attn.diagonal_decay", "single lightning_head block key_block"),
    )
)


def is_full(facts: Facts, layer: int) -> bool:
    """Whether a layer has the usual attention: attn_type_list (1) as published, layer_types in transformers. Raises SourceError."""
    kinds = facts.items("attn_type_list", int) if facts.get("attn_type_list") is not None else facts.items("layer_types", str)
    if kinds is None:
        return layer % 2 == 0  # as transformers' class takes it
    if layer >= len(kinds):
        raise SourceError(f"{facts.origin} does not say attn_type_list or layer_types for all layers", do="complete it")
    return kinds[layer] in (1, "full_attention")


def lightning_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Either kind of attention, and experts."""
    return LayerRows(family.norms + (GQA if is_full(facts, layer) else LIGHTNING + DECAYS) + family.experts, dense=False)


def lightning_sizes(facts: Facts) -> dict[str, int]:
    """inner: all heads together, and three times that."""
    sizes = gqa_sizes(facts)
    inner = facts.number("heads") * sizes["head_dim"]
    block = facts.number("block_size", default=256)
    decays = {"lightning_head": facts.number("heads"), "block": block, "key_block": block, "single": 1, "one": 1}
    return {**sizes, "inner": inner, "three_inner": 3 * inner, **decays}


FAMILY = replace(
    llama2.FAMILY,
    name="minimax_m1",
    title="MiniMax-01, MiniMax-M1",
    model_types=("minimax_m1", "minimax", "minimax_text_01"),
    architectures=("MiniMaxM1ForCausalLM", "MiniMaxForCausalLM", "MiniMaxText01ForCausalLM"),
    mlp=(),
    experts=BLOCK_SPARSE_MOE,
    packed=PACKED_SPARSE_MOE,
    flags=(),
    sizes=(lightning_sizes, sparse_sizes),
    layer=lightning_layer,
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
    fields=("attn_type_list", "layer_types"),
)
