"""OLMo Hybrid: OLMo 3 with gated delta nets in most layers, whose norms stand before their blocks (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import GQA, QK_NORM_WIDE, gqa_sizes
from convsvc.blocks.norms import INPUT_NORM, ONLY_POST_ATTENTION_NORM, ONLY_POST_MLP_NORM, PRE_MLP_NORM
from convsvc.blocks.own import own
from convsvc.families import olmo2
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

# transformers saves full attention's first norm under the name that delta nets' second one has (conversion_mapping.py, 5.23).
AFTER = (
    row("post_attention_layernorm.weight", ONLY_POST_ATTENTION_NORM, "hidden", also=("feedforward_layer_norm.weight",)),
    row("post_feedforward_layernorm.weight", ONLY_POST_MLP_NORM, "hidden"),
)
BEFORE = (
    row("attention_layer_norm.weight", INPUT_NORM, "hidden", also=("input_layernorm.weight",)),
    row("feedforward_layer_norm.weight", PRE_MLP_NORM, "hidden", also=("post_attention_layernorm.weight",)),
)
DELTA = (
    *(own(f"linear_attn.{name}_proj.weight", "key_inner hidden", over="hidden") for name in "qk"),
    *(own(f"linear_attn.{name}_proj.weight", "value_inner hidden", over="hidden") for name in "vg"),
    *(own(f"linear_attn.{name}_proj.weight", "value_head hidden") for name in "ab"),
    *(own(f"linear_attn.{name}_conv1d.weight", "key_inner single conv_kernel") for name in "qk"),
    own("linear_attn.v_conv1d.weight", "value_inner single conv_kernel"),
    own("linear_attn.A_log", "value_head"),
    own("linear_attn.dt_bias", "value_head"),
    own("linear_attn.o_norm.weight", "value_dim"),
    own("linear_attn.o_proj.weight", "hidden value_inner", over="value_inner"),
)


def is_full(facts: Facts, layer: int) -> bool:
    """Whether it has full attention: layer_types, else every fourth, and the last where that is none."""
    kinds, count = facts.items("layer_types", str), facts.num_layers
    every_fourth = layer % 4 == 3 or (count < 4 and layer == count - 1)
    return every_fourth if kinds is None else kinds[min(layer, len(kinds) - 1)] == "full_attention"


def hybrid_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Full attention with norms behind both blocks, or a delta net with norms before."""
    made = family if is_full(facts, layer) else replace(family, norms=BEFORE, attention=DELTA, flags=())
    return standard_layer(made, facts, layer)


def delta_sizes(facts: Facts) -> dict[str, int]:
    """Of the delta net; by OlmoHybridConfig's defaults as many heads as attention has, three quarters as wide, values twice that."""
    keys, values = (facts.first_number((f"linear_num_{name}_heads",), default=facts.number("heads")) for name in ("key", "value"))
    width = facts.first_number(("linear_key_head_dim",), default=int(0.75 * facts.number("hidden") / max(keys, 1)))
    value_dim = facts.first_number(("linear_value_head_dim",), default=2 * width)
    sizes = {"key_inner": keys * width, "value_inner": values * value_dim, "value_head": values, "value_dim": value_dim}
    return {**sizes, "single": 1, "conv_kernel": facts.first_number(("linear_conv_kernel_dim",), default=4)}


FAMILY = replace(
    olmo2.FAMILY,
    name="olmo-hybrid",
    title="OLMo Hybrid",
    model_types=("olmo_hybrid",),
    architectures=("OlmoHybridForCausalLM",),
    norms=AFTER,
    attention=GQA + QK_NORM_WIDE,
    layer=hybrid_layer,
    sizes=(gqa_sizes, glu_sizes, delta_sizes),
    fields=("layer_types",),
    advice=(),
)
