"""Baichuan and Baichuan2: Llama with one stored tensor for queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import PACKED_QKV, PROJ
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def other_ends(facts: Facts) -> str | None:
    """The configuration says neither (modeling_baichuan.py of Baichuan2: NormHead; of the 13B models: ALiBi)."""
    if facts.num_layers < 40 and facts.number("vocab") <= 64000:
        return None
    return (
        "Baichuan2 normalises the rows of its output layer when it computes, and the 13B models have ALiBi in place of rotary positions: "
        "training must be told, or computes another model"
    )


FAMILY = replace(
    llama2.FAMILY,
    name="baichuan",
    title="Baichuan, Baichuan2",
    model_types=("baichuan",),
    architectures=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    attention=(
        row("self_attn.W_pack.weight", PACKED_QKV),
        row("self_attn.o_proj.weight", PROJ, "hidden (group query head_dim)"),
    ),
    flags=(),
    advice=(other_ends,),
)
