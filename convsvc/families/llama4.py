"""Llama 4 (text): some layers with experts stored together, input before output, and a shared expert; some without positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, SHARED_FC1, SHARED_FC2
from convsvc.families import llama2
from convsvc.models.beyond import layers_without_positions
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

EXPERTS = (
    row("feed_forward.router.weight", ROUTER, "expert hidden"),
    # transformers 5.23, Llama4TextExperts: gate_up_proj [expert, hidden, 2 * ffn], chunked into gate and up.
    row("feed_forward.experts.gate_up_proj", EXPERT_FC1, "expert hidden (glu expert_ffn)"),
    row("feed_forward.experts.down_proj", EXPERT_FC2, "expert expert_ffn hidden"),
    row("feed_forward.shared_expert.gate_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("feed_forward.shared_expert.up_proj.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
    row("feed_forward.shared_expert.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
)


def llama4_sizes(facts: Facts) -> dict[str, int]:
    """ffn of dense layers is intermediate_size_mlp; experts and the shared one are intermediate_size wide."""
    expert = facts.first_number(("intermediate_size", "moe_ffn_hidden_size"))
    dense = facts.first_number(("intermediate_size_mlp", "ffn_hidden_size"), default=expert)
    return {"glu": 2, "ffn": dense, "expert": facts.number("experts"), "expert_ffn": expert, "shared_ffn": expert}


def llama4_sparse(facts: Facts) -> Callable[[int], bool]:
    """Which layers have experts: moe_layers, or every interleave_moe_layer_step-th (Llama4TextConfig); Megatron's list comes first."""
    listed = facts.get("moe_layer_freq")
    if isinstance(listed, list | tuple):
        kinds = facts.items("moe_layer_freq", int) or (1,)
        return lambda layer: bool(kinds[min(layer, len(kinds) - 1)])
    step = max(facts.number("interleave_moe_layer_step", default=1), 1)
    layers = facts.items("moe_layers", int)
    return lambda layer: layer in layers if layers is not None else (layer + 1) % step == 0


def llama4_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Attention, and experts or a dense block."""
    is_sparse = llama4_sparse(facts)(layer)
    biases = QKV_BIASES + O_BIAS if facts.flag("attention_bias") else ()
    rows = family.norms + family.attention + biases + (family.experts if is_sparse else family.mlp)
    return LayerRows(rows, dense=not is_sparse)


FAMILY = replace(
    llama2.FAMILY,
    name="llama4",
    title="Llama 4 (text)",
    model_types=("llama4_text",),
    architectures=("Llama4ForCausalLM",),
    mlp=(
        row("feed_forward.gate_proj.weight", FC1.at(glu="0"), "ffn hidden"),
        row("feed_forward.up_proj.weight", FC1.at(glu="1"), "ffn hidden"),
        row("feed_forward.down_proj.weight", FC2, "hidden ffn"),
    ),
    experts=EXPERTS,
    packed=(),
    flags=(),
    sizes=(gqa_sizes, llama4_sizes),
    layer=llama4_layer,
    fields=("interleave_moe_layer_step", "moe_layers", "attention_bias"),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size", "ffn": "intermediate_size_mlp"},
    # A token's one expert gets it scaled by the score (transformers, Llama4TextMoe and Llama4Router).
    megatron={"rotary_interleaved": True, "moe_router_score_function": "sigmoid", "moe_apply_probs_on_input": True},
    advice=(layers_without_positions,),
)
