"""JetMoE: experts in the feed-forward block and in attention, where queries and outputs are each expert's own (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, sparse_sizes
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def jetmoe_sizes(facts: Facts) -> dict[str, int]:
    """inner: the width of all keys; with values twice that."""
    inner = facts.first_number(("num_key_value_heads",), default=16) * facts.first_number(("kv_channels", "head_dim"), default=128)
    return {**sparse_sizes(facts), "inner": inner, "two_inner": 2 * inner}


FAMILY = replace(
    llama2.FAMILY,
    name="jetmoe",
    title="JetMoE",
    model_types=("jetmoe",),
    architectures=("JetMoeForCausalLM",),
    attention=(
        own("self_attention.kv_proj.weight", "two_inner hidden", over="hidden"),
        own("self_attention.experts.router.layer.weight", "expert hidden"),
        own("self_attention.experts.input_linear.weight", "expert inner hidden"),
        own("self_attention.experts.output_linear.weight", "expert hidden inner"),
        own("self_attention.experts.bias", "hidden"),
    ),
    mlp=(),
    experts=(
        row("mlp.router.layer.weight", ROUTER, "expert hidden"),
        row("mlp.input_linear.weight", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
        row("mlp.output_linear.weight", EXPERT_FC2, "expert hidden expert_ffn"),
        own("mlp.bias", "hidden"),
    ),
    packed=(),
    flags=(),
    sizes=(jetmoe_sizes,),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size", "head_dim": "kv_channels"},
    tied_by_default=True,
    fields=("kv_channels",),
)
