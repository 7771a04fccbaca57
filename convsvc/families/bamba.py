"""Bamba: layers whose first block is a Mamba-2 mixer or attention, and whose second is gated."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_NORM
from convsvc.blocks.glu import GLU, GLU_BIASES, glu_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.mamba import LAYER_MIXER_NORM, layer_mixer, layer_mixer_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import called
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

NORM = (row("pre_ff_layernorm.weight", PRE_MLP_NORM, "hidden"),)
MIXED_NORM = (row("input_layernorm.weight", LAYER_MIXER_NORM, "hidden"),)


def either_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Attention in the layers that attn_layer_indices lists, a mixer in all others (BambaConfig)."""
    if layer in (facts.items("attn_layer_indices", int) or ()):
        return standard_layer(family, facts, layer)
    biases = called(GLU_BIASES, mlp="feed_forward") if facts.flag("mlp_bias") else ()
    return LayerRows(MIXED_NORM + NORM + layer_mixer(facts) + family.mlp + biases)


FAMILY = replace(
    llama2.FAMILY,
    name="bamba",
    title="Bamba",
    model_types=("bamba",),
    architectures=("BambaForCausalLM",),
    norms=(row("input_layernorm.weight", INPUT_NORM, "hidden"), *NORM),
    mlp=called(GLU, mlp="feed_forward"),
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", called(GLU_BIASES, mlp="feed_forward"))),
    sizes=(gqa_sizes, glu_sizes, layer_mixer_sizes),
    layer=either_layer,
    final_norm=(row("model.final_layernorm.weight", FINAL_NORM, "hidden"),),
    fields=("attn_layer_indices",),
)
