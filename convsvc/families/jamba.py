"""Jamba: a layer has a Mamba mixer or attention, then experts or a dense block; periods and offsets say which."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_NORM
from convsvc.blocks.glu import GLU, glu_sizes
from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import EXPERTS, PACKED_EXPERTS, ROUTER, sparse_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import called, own
from convsvc.families import llama2, mamba
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

MIXER = (
    *called(mamba.MIXER, mixer="mamba"),
    own("mamba.dt_layernorm.weight", "dt_rank"),
    own("mamba.b_layernorm.weight", "ssm_state"),
    own("mamba.c_layernorm.weight", "ssm_state"),
)
CONV_BIAS, BIASES = called(mamba.CONV_BIAS, mixer="mamba"), called(mamba.BIASES, mixer="mamba")


def jamba_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Attention and experts every so many layers, from an offset on (JambaConfig.layers_block_type, layers_num_experts)."""
    defaults = {"attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2, "expert_layer_offset": 1}
    attention, first, experts, first_experts = (facts.first_number((name,), default=value) for name, value in defaults.items())
    if layer % max(attention, 1) != first:
        family = replace(
            family, attention=mamba.with_biases(facts, MIXER, CONV_BIAS, BIASES, conv="mamba_conv_bias", proj="mamba_proj_bias")
        )
    sparse = layer % max(experts, 1) == first_experts and facts.number("experts") > 1
    return standard_layer(replace(family, experts=family.experts if sparse else ()), facts, layer)


FAMILY = replace(
    llama2.FAMILY,
    name="jamba",
    title="Jamba",
    model_types=("jamba",),
    architectures=("JambaForCausalLM",),
    norms=(row("input_layernorm.weight", INPUT_NORM, "hidden"), row("pre_ff_layernorm.weight", PRE_MLP_NORM, "hidden")),
    mlp=called(GLU, mlp="feed_forward"),
    experts=(row("feed_forward.router.weight", ROUTER, "expert hidden"), *called(EXPERTS, mlp="feed_forward")),
    packed=called(PACKED_EXPERTS, mlp="feed_forward"),
    flags=(),
    sizes=(gqa_sizes, glu_sizes, sparse_sizes, mamba.mamba1_sizes),
    layer=jamba_layer,
    final_norm=(row("model.final_layernorm.weight", FINAL_NORM, "hidden"),),
    fields=("attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset", "mamba_dt_rank"),
    names={"experts": "num_experts", "expert_ffn": "intermediate_size"},
)
