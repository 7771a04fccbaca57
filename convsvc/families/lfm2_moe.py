"""LFM2 with experts in its later layers."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER
from convsvc.families import lfm2
from convsvc.families.lfm2 import lfm2_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

EXPERTS = (
    row("feed_forward.gate.weight", ROUTER, "expert hidden"),
    row("feed_forward.experts.{expert}.w1.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("feed_forward.experts.{expert}.w3.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("feed_forward.experts.{expert}.w2.weight", EXPERT_FC2, "hidden expert_ffn"),
)
PACKED = (
    row("feed_forward.experts.gate_up_proj", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("feed_forward.experts.down_proj", EXPERT_FC2, "expert hidden expert_ffn"),
)


def lfm2_moe_sizes(facts: Facts) -> dict[str, int]:
    """The experts', and a dense block's as it is said."""
    return {"ffn": facts.number("ffn"), "expert": facts.number("experts"), "expert_ffn": facts.number("expert_ffn")}


FAMILY = replace(
    lfm2.FAMILY,
    name="lfm2-moe",
    title="LFM2-MoE",
    model_types=("lfm2_moe",),
    architectures=("Lfm2MoeForCausalLM",),
    experts=EXPERTS,
    packed=PACKED,
    sizes=(gqa_sizes, lfm2_sizes, lfm2_moe_sizes),
    names={**lfm2.FAMILY.names, "experts": "num_experts"},
)
