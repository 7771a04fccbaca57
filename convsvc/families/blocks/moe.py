"""Mixture of experts: the router and the experts, all of a layer's experts in one logical tensor.

The experts' axes are in the order in which grouped GEMM keeps them (megatron/core/transformer/moe/experts.py, GroupedMLP): one
expert after the other, input axis first.
"""

from __future__ import annotations

from collections.abc import Callable

from convsvc.families.facts import Facts
from convsvc.tensors.declare import logical, row

ROUTER = logical("mlp.router.weight", "expert hidden")
EXPERT_FC1 = logical("mlp.experts.linear_fc1.weight", "expert hidden glu expert_ffn")
EXPERT_FC2 = logical("mlp.experts.linear_fc2.weight", "expert expert_ffn hidden")

MOE = (
    row("mlp.gate.weight", ROUTER, "expert hidden"),
    row("mlp.experts.{expert}.gate_proj.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("mlp.experts.{expert}.up_proj.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("mlp.experts.{expert}.down_proj.weight", EXPERT_FC2, "hidden expert_ffn"),
)


def moe_sizes(facts: Facts) -> dict[str, int]:
    """expert and expert_ffn."""
    return {"glu": 2, "expert": facts.number("experts"), "expert_ffn": facts.number("expert_ffn")}


def sparse_layers(facts: Facts) -> Callable[[int], bool]:
    """Which layers have experts, by whatever field says so.

    Hugging Face: mlp_only_layers and decoder_sparse_step (Qwen) or first_k_dense_replace (DeepSeek); Megatron: moe_layer_freq, a
    number or a list of 0 and 1.
    """
    dense = set(facts.get("mlp_only_layers", default=()))
    step = facts.number("decoder_sparse_step", default=1)
    first = facts.number("first_k_dense_replace", default=0)
    frequency = facts.get("moe_layer_freq", default=1)

    def is_sparse(layer: int) -> bool:
        if isinstance(frequency, list | tuple):
            return layer < len(frequency) and bool(frequency[layer])
        return layer not in dense and layer >= first and (layer + 1) % max(step, 1) == 0 and layer % max(int(frequency), 1) == 0

    return is_sparse
