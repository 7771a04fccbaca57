"""PLM: latent attention without a low rank for queries, and a feed-forward block without a gate."""

from __future__ import annotations

from convsvc.blocks.glu import UNGATED, ungated_sizes
from convsvc.blocks.mla import MLA_WHOLE_QUERIES, mla_sizes
from convsvc.blocks.norms import NORMS
from convsvc.models.family import Family

FAMILY = Family(
    name="plm",
    title="PLM",
    model_types=("plm",),
    architectures=("PLMForCausalLM",),
    norms=NORMS,
    attention=MLA_WHOLE_QUERIES,
    mlp=UNGATED,
    sizes=(mla_sizes, ungated_sizes),
    tied_by_default=True,
    megatron={"multi_latent_attention": True, "qk_layernorm": True, "swiglu": False, "squared_relu": True},
)
