"""Mixture of experts: the router and the experts, all of a layer's experts in one logical tensor.

The experts' axes are in the order in which grouped GEMM keeps them (megatron/core/transformer/moe/experts.py, GroupedMLP): one
expert after the other, input axis first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.model import Model
from convsvc.tensors.declare import logical, row

ROUTER = logical("mlp.router.weight", "expert hidden")
EXPERT_FC1 = logical("mlp.experts.linear_fc1.weight", "expert hidden glu expert_ffn", over="hidden", linear="experts")
EXPERT_FC2 = logical("mlp.experts.linear_fc2.weight", "expert expert_ffn hidden", over="expert_ffn", linear="experts")
ROUTER_BIAS = logical("mlp.router.expert_bias", "expert")
# The experts that each token always goes to, instead of a bias (DeepSeek-V4's first layers). Numbers, not weights.
TOKEN_EXPERTS = logical("mlp.router.tid2eid", "vocab chosen", integers=True)
# All shared experts are one gated block, as wide as all of them together.
SHARED_FC1 = logical("mlp.shared_experts.linear_fc1.weight", "glu shared_ffn hidden", over="hidden")
SHARED_FC2 = logical("mlp.shared_experts.linear_fc2.weight", "hidden shared_ffn", over="shared_ffn")
SHARED_GATE = logical("mlp.shared_experts.gate_weight", "shared_gate hidden")

EXPERTS = (
    row("mlp.experts.{expert}.gate_proj.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("mlp.experts.{expert}.up_proj.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("mlp.experts.{expert}.down_proj.weight", EXPERT_FC2, "hidden expert_ffn"),
)
MOE = (row("mlp.gate.weight", ROUTER, "expert hidden"), *EXPERTS)
# Mixtral's names, which others took over: w1 is the gate, w3 up, w2 down.
BLOCK_SPARSE_MOE = (
    row("block_sparse_moe.gate.weight", ROUTER, "expert hidden"),
    row("block_sparse_moe.experts.{expert}.w1.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("block_sparse_moe.experts.{expert}.w3.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("block_sparse_moe.experts.{expert}.w2.weight", EXPERT_FC2, "hidden expert_ffn"),
)
# Stacked, as transformers 5 has them in memory and saves them with save_original_format=False (conversion_mapping.py: every expert's
# [out, in] matrices stacked, up after gate); input before output is another model's, and not read.
PACKED_EXPERTS = (
    row("mlp.experts.gate_up_proj", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("mlp.experts.down_proj", EXPERT_FC2, "expert hidden expert_ffn"),
)
# Mixtral's block has the usual names then.
PACKED_SPARSE_MOE = (row("mlp.gate.weight", ROUTER, "expert hidden"), *PACKED_EXPERTS)
ROUTER_BIASES = (row("mlp.gate.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32"),)
SHARED_EXPERTS = (
    row("mlp.shared_experts.gate_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("mlp.shared_experts.up_proj.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
    row("mlp.shared_experts.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
)
# Megatron's shared experts have no biases: these have a place in Hugging Face's formats alone.
SHARED_FC1_BIAS = logical("mlp.shared_experts.linear_fc1.bias", "glu shared_ffn")
SHARED_FC2_BIAS = logical("mlp.shared_experts.linear_fc2.bias", "hidden")
SHARED_BIASES = (
    row("mlp.shared_experts.gate_proj.bias", SHARED_FC1_BIAS.at(glu="0"), "shared_ffn"),
    row("mlp.shared_experts.up_proj.bias", SHARED_FC1_BIAS.at(glu="1"), "shared_ffn"),
    row("mlp.shared_experts.down_proj.bias", SHARED_FC2_BIAS, "hidden"),
)
# Qwen has one, whose output a gate weighs.
SHARED_EXPERT = (
    row("mlp.shared_expert.gate_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("mlp.shared_expert.up_proj.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
    row("mlp.shared_expert.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
    row("mlp.shared_expert_gate.weight", SHARED_GATE, "shared_gate hidden"),
)


def moe_sizes(facts: Facts) -> dict[str, int]:
    """expert and expert_ffn."""
    return {"glu": 2, "expert": facts.number("experts"), "expert_ffn": facts.number("expert_ffn")}


def sparse_sizes(facts: Facts) -> dict[str, int]:
    """expert and expert_ffn where no layer is dense: the experts' width may be called intermediate_size then (Mixtral)."""
    width = facts.number("expert_ffn", default=facts.number("ffn", default=0))
    return {"glu": 2, "expert": facts.number("experts"), "expert_ffn": width or facts.number("ffn")}


def shared_sizes(facts: Facts) -> dict[str, int]:
    """shared_ffn, of all shared experts together (0: there are none), and shared_gate (1).

    Hugging Face: the width itself (Qwen), or how many there are, each as wide as a routed expert. Megatron: the width itself.
    """
    width = facts.get("shared_expert_intermediate_size")
    count = facts.get("n_shared_experts", "num_shared_experts")
    if width is None and count is not None:
        field = "n_shared_experts" if facts.get("n_shared_experts") is not None else "num_shared_experts"
        return {"shared_ffn": facts.number(field) * facts.number("expert_ffn"), "shared_gate": 1}
    name = "moe_shared_expert_intermediate_size" if width is None else "shared_expert_intermediate_size"
    return {"shared_ffn": facts.number(name, default=0), "shared_gate": 1}


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """The experts' number and widths, how many a token chooses, and which layers have them; of the layers that are converted."""
    sizes, sparse = model.sizes, [not scope.dense for scope in model.layers()]
    shared = {"moe_shared_expert_intermediate_size": sizes["shared_ffn"]} if sizes.get("shared_ffn") else {}
    if "expert" not in sizes:
        return shared
    first = {"first_k_dense_replace": sparse.count(False)} if "first_k_dense_replace" in facts.values else {}
    return {
        "num_experts": sizes["expert"],
        "moe_ffn_hidden_size": sizes["expert_ffn"],
        "moe_router_topk": facts.get("num_experts_per_tok", "moe_topk", "moe_router_topk"),
        "moe_layer_freq": list(map(int, sparse)),
        **first,
        **shared,
    }


def sparse_layers(facts: Facts) -> Callable[[int], bool]:
    """Which layers have experts, by whatever field says so.

    Hugging Face: mlp_layer_types ("dense" or "sparse", layer by layer), mlp_only_layers and decoder_sparse_step (Qwen) or
    first_k_dense_replace (DeepSeek); Megatron: moe_layer_freq, a number or a list of 0 and 1, which is the converted model's own and so
    comes first.

    Raises SourceError for a kind of layer that nobody knows.
    """
    dense = set(facts.items("mlp_only_layers", int) or ())
    step = facts.number("decoder_sparse_step", default=1)
    first = facts.number("first_k_dense_replace", default=0)
    stated = facts.get("moe_layer_freq")
    listed = isinstance(stated, list | tuple) and len(stated) > 0
    frequency = facts.items("moe_layer_freq", int) or () if listed else ()
    every = 1 if listed else facts.number("moe_layer_freq", default=1)

    kinds: tuple[str, ...] | None = facts.items("mlp_layer_types", str)
    unknown = sorted(set(kinds or ()) - {"dense", "sparse"})
    if unknown:
        raise SourceError(f"{facts.origin}: mlp_layer_types has {shown(unknown[0])}; known are 'dense' and 'sparse'")

    def is_sparse(layer: int) -> bool:
        if kinds and not frequency:
            if layer >= len(kinds) and "sparse" not in kinds:
                return layer >= first  # an MTP layer after dense ones only: what experts there are, are its own
            return kinds[min(layer, len(kinds) - 1)] == "sparse"
        if frequency:
            # An MTP layer, which the list does not count, is built like the last layer; after dense layers only, as the other field says.
            all_dense = not any(frequency) and facts.get("first_k_dense_replace") is not None
            return layer >= max(first, len(frequency)) if all_dense else bool(frequency[min(layer, len(frequency) - 1)])
        return layer not in dense and layer >= first and (layer + 1) % max(step, 1) == 0 and layer % max(every, 1) == 0

    return is_sparse
