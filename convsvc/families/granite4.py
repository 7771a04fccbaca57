"""Granite 4: Granite MoE with a shared block, with Mamba-2 mixers or attention; without experts, the shared block is dense."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.mamba import LAYER_MIXER_NORM, layer_mixer, layer_mixer_sizes
from convsvc.blocks.norms import PRE_MLP_NORM
from convsvc.families import granitemoeshared
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

NORMS = (row("input_layernorm.weight", LAYER_MIXER_NORM, "hidden"), row("post_attention_layernorm.weight", PRE_MLP_NORM, "hidden"))
DENSE = (
    row("shared_mlp.input_linear.weight", FC1, "(glu ffn) hidden"),
    row("shared_mlp.output_linear.weight", FC2, "hidden ffn"),
)


def is_mixer(facts: Facts, layer: int) -> bool:
    """Whether it is a mixer's: "mamba" in published configurations, "linear_attention" in those that transformers 5 writes."""
    kinds = facts.items("layer_types", str) or facts.items("layers_block_type", str)
    return kinds is None or kinds[min(layer, len(kinds) - 1)] in ("mamba", "linear_attention")


def granite4_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A mixer or attention; experts where there are any."""
    if not facts.number("experts", default=0):
        family = replace(family, mlp=DENSE, experts=())
    if not is_mixer(facts, layer):
        return standard_layer(family, facts, layer)
    return standard_layer(replace(family, norms=NORMS, attention=layer_mixer(facts), flags=()), facts, layer)


def granite4_sizes(facts: Facts) -> dict[str, int]:
    """Experts are intermediate_size wide, the shared block, or the dense one, shared_intermediate_size."""
    shared = granitemoeshared.shared_mlp_sizes(facts)["shared_ffn"]
    experts = {"expert": facts.number("experts", default=0), "expert_ffn": facts.number("ffn"), "shared_ffn": shared}
    mixer = layer_mixer_sizes(facts) if any(is_mixer(facts, layer) for layer in range(facts.num_layers)) else {}
    return {"glu": 2, **mixer, **(experts if experts["expert"] else {"ffn": shared})}


FAMILY = replace(
    granitemoeshared.FAMILY,
    name="granite4",
    title="Granite 4",
    model_types=("granitemoehybrid",),
    architectures=("GraniteMoeHybridForCausalLM",),
    sizes=(gqa_sizes, granite4_sizes),
    layer=granite4_layer,
    fields=("layer_types", "shared_intermediate_size"),
)
