"""ERNIE 4.5 MoE (text): the dense model with experts from a layer on, a bias on the router, shared experts as one block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convsvc.blocks.embeddings import OUTPUT_BIAS_ROWS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.glu import GLU_BIASES, glu_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIAS, SHARED_BIASES, SHARED_EXPERTS, moe_sizes
from convsvc.families import ernie45
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

# As transformers 5 has it in memory.
ALSO = ("mlp.gate.moe_statics.e_score_correction_bias",)
BIAS = (row("mlp.moe_statics.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", shape="() expert", also=ALSO),)


def ernie_sparse(facts: Facts) -> Callable[[int], bool]:
    """Which layers have experts: from moe_layer_start_index to moe_layer_end_index, every moe_layer_interval-th (Ernie4_5_MoeConfig)."""
    listed = facts.items("moe_layer_freq", int) if isinstance(facts.get("moe_layer_freq"), list) else None
    start, every = facts.number("moe_layer_start_index", default=1), facts.number("moe_layer_interval", default=1)
    end = facts.get("moe_layer_end_index", default=-1)
    last = facts.num_layers - 1 if end == -1 else int(end)
    if listed is not None:
        return lambda layer: bool(listed[min(layer, len(listed) - 1)])
    return lambda layer: (layer + 1) % max(every, 1) == 0 and start <= layer <= last


def ernie_shared_sizes(facts: Facts) -> dict[str, int]:
    """shared_ffn: so many shared experts, each as wide as a routed one."""
    stated = facts.number("moe_shared_expert_intermediate_size", default=0)
    return {"shared_ffn": stated or facts.number("moe_num_shared_experts", default=0) * facts.number("expert_ffn")}


def ernie_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A standard layer, with biases on the shared experts' matrices where all have them."""
    is_sparse = ernie_sparse(facts)(layer)
    made = standard_layer(replace(family, mlp=family.experts, experts=()) if is_sparse else replace(family, experts=()), facts, layer)
    flagged = (SHARED_BIASES if is_sparse else GLU_BIASES) if facts.flag("use_bias") else ()
    return replace(made, rows=made.rows + flagged, dense=not is_sparse)


FAMILY = replace(
    ernie45.FAMILY,
    name="ernie4.5-moe",
    title="ERNIE 4.5 (MoE)",
    model_types=("ernie4_5_moe",),
    architectures=("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"),
    experts=MOE + BIAS + SHARED_EXPERTS,
    flags=(("use_bias", QKV_BIASES + O_BIAS),),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, ernie_shared_sizes),
    layer=ernie_layer,
    fields=("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "moe_num_shared_experts"),
    output=OUTPUT_ROWS + OUTPUT_BIAS_ROWS,
    tied_output=TIED_OUTPUT_ROWS + OUTPUT_BIAS_ROWS,
    names={"experts": "moe_num_experts", "chosen": "moe_k"},
    megatron={"rotary_interleaved": True, "moe_router_enable_expert_bias": True},
)
