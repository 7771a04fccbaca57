"""Command R: one LayerNorm for both blocks, side by side, and where it is said norms that heads do not share."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import K_NORMS, O_BIAS, QKV_BIASES
from convsvc.blocks.norms import (
    PARALLEL_NORM,
)
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

# A norm for each head, which heads do not share.
Q_NORMS = logical("self_attention.q_layernorms.weight", "group query head_dim")


def cohere_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm without a bias for both blocks, side by side."""
    norms = (
        row("self_attn.q_norm.weight", Q_NORMS, "(group query) head_dim"),
        row("self_attn.k_norm.weight", K_NORMS, "group head_dim"),
    )
    biases = QKV_BIASES + O_BIAS if facts.flag("attention_bias") else ()
    return LayerRows(family.norms + family.attention + biases + (norms if facts.flag("use_qk_norm") else ()) + family.mlp)


FAMILY = replace(
    llama2.FAMILY,
    name="cohere",
    title="Command R, R+, R7B",
    model_types=("cohere", "cohere2"),
    architectures=("CohereForCausalLM", "Cohere2ForCausalLM"),
    norms=(row("input_layernorm.weight", PARALLEL_NORM, "hidden"),),
    flags=(),
    layer=cohere_layer,
    fields=("use_qk_norm", "attention_bias"),
    tied_by_default=True,
    names={"epsilon": "layer_norm_eps"},
    megatron={"normalization": "LayerNorm", "rotary_interleaved": True},
)
