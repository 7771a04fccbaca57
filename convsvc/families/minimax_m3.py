"""MiniMax-M3 (text): MiniMax-M2 with norms a head, first layers dense, a shared expert, and an indexer that chooses blocks of keys.

transformers 5.23, MiniMaxM3VLForCausalLM: norms' weights are added to 1, intermediate_size is an expert's. The published names are those
that its loader renames (conversion_mapping.py, minimax_m3_vl); its own text class stacks experts, fuses gate and up, and says indexer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convsvc.blocks.glu import FC1, FC2, GLU_PACKED
from convsvc.blocks.gqa import GQA, QK_NORM, gqa_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_SPARSE_MOE, ROUTER_BIAS, SHARED_EXPERTS, SHARED_FC1
from convsvc.blocks.own import own
from convsvc.families import minimax_m2
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

INDEXER = tuple(
    own(f"self_attn.index_{name}.weight", axes, also=(f"self_attn.indexer.{name}.weight",))
    for name, axes in (
        ("q_proj", "index_queries hidden"),
        ("k_proj", "index_dim hidden"),
        ("q_norm", "index_dim"),
        ("k_norm", "index_dim"),
    )
)
SHARED = tuple(replace(each, stored=each.stored.replace("mlp.", "block_sparse_moe."), also=(each.stored,)) for each in SHARED_EXPERTS)
PACKED = (
    *PACKED_SPARSE_MOE,
    *GLU_PACKED[:1],
    row("mlp.shared_experts.gate_up_proj.weight", SHARED_FC1, "(glu shared_ffn) hidden"),
)
BIAS = row("block_sparse_moe.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", also=("mlp.gate.e_score_correction_bias",))


def indexed(facts: Facts, layer: int) -> bool:
    """Whether a layer has an indexer: as layer_types or sparse_attention_freq says."""
    kinds, said = facts.items("layer_types", str), facts.get("sparse_attention_config")
    listed = Facts(said, facts.origin).items("sparse_attention_freq", int) if isinstance(said, Mapping) else None
    return kinds[layer] == "minimax_m3_sparse" if kinds and layer < len(kinds) else bool(listed and listed[min(layer, len(listed) - 1)])


def m3_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer, with the indexer where it has one."""
    made = standard_layer(family, facts, layer)
    return replace(made, rows=made.rows + (INDEXER if indexed(facts, layer) else ()))


def m3_sizes(facts: Facts) -> dict[str, int]:
    """The dense blocks', the experts' and the indexer's."""
    said = facts.get("sparse_attention_config")
    own_facts = Facts({**(said if isinstance(said, Mapping) else {}), **facts.values}, facts.origin)
    heads, width = (
        own_facts.first_number(("index_n_heads", "sparse_num_index_heads")),
        own_facts.first_number(("index_head_dim", "sparse_index_dim")),
    )
    shared = facts.first_number(("shared_intermediate_size", "moe_shared_expert_intermediate_size"))
    dense = facts.first_number(("dense_intermediate_size", "ffn_hidden_size"))
    expert = facts.first_number(("moe_ffn_hidden_size", "moe_intermediate_size", "intermediate_size"))
    index = {"index_queries": heads * width, "index_dim": width}
    return {"glu": 2, "ffn": dense, "expert": facts.number("experts"), "expert_ffn": expert, "shared_ffn": shared, **index}


FAMILY = replace(
    minimax_m2.FAMILY,
    name="minimax_m3",
    title="MiniMax-M3 (text)",
    model_types=("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
    architectures=("MiniMaxM3SparseForCausalLM", "MiniMaxM3VLForCausalLM", "MiniMaxM3ForCausalLM"),
    attention=GQA + QK_NORM,
    mlp=(
        row("mlp.gate_proj.weight", FC1.at(glu="0"), "ffn hidden"),
        row("mlp.up_proj.weight", FC1.at(glu="1"), "ffn hidden"),
        row("mlp.down_proj.weight", FC2, "hidden ffn"),
    ),
    experts=(*BLOCK_SPARSE_MOE, BIAS, *SHARED),
    packed=PACKED,
    sizes=(gqa_sizes, m3_sizes),
    layer=m3_layer,
    zero_centred=True,
    names={
        "experts": "num_local_experts",
        "expert_ffn": "intermediate_size",
        "ffn": "dense_intermediate_size",
        "shared": "shared_intermediate_size",
    },
    fields=("sparse_attention_config", "layer_types", "index_n_heads", "index_head_dim", "moe_layer_freq", "mlp_layer_types"),
)
