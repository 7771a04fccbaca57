"""DeepSeek-V2: latent attention, the first layers dense, experts with shared ones in the others."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU, glu_sizes
from convsvc.blocks.mla import MLA, MLA_WHOLE_QUERIES, has_query_rank, mla_sizes
from convsvc.blocks.moe import MOE, SHARED_EXPERTS, moe_sizes, shared_sizes
from convsvc.blocks.norms import NORMS
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows


def is_latent(facts: Facts) -> bool:
    """Whether its attention is latent: DeepSeek-OCR's class is the same, and its attention the usual one (use_mla)."""
    return facts.flag("use_mla", default=True)


def latent_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer; where the configuration gives queries no low rank, their projection is one matrix."""
    rows = standard_layer(family, facts, layer)
    if has_query_rank(facts):
        return rows
    ranked = set(MLA) - set(MLA_WHOLE_QUERIES)
    kept = tuple(row for row in rows.rows if row not in ranked)
    return replace(rows, rows=kept + tuple(row for row in MLA_WHOLE_QUERIES if row not in MLA))


FAMILY = Family(
    name="deepseek2",
    title="DeepSeek-V2",
    model_types=("deepseek_v2",),
    architectures=("DeepseekV2ForCausalLM",),
    norms=NORMS,
    attention=MLA,
    mlp=GLU,
    experts=MOE + SHARED_EXPERTS,
    sizes=(mla_sizes, glu_sizes, moe_sizes, shared_sizes),
    layer=latent_layer,
    distinguish=lambda facts: is_latent(facts) and has_query_rank(facts),
    megatron={"multi_latent_attention": True, "qk_layernorm": True},
    names={"experts": "n_routed_experts", "shared": "n_shared_experts", "dense": "first_k_dense_replace"},
)
