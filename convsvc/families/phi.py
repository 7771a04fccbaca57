"""Phi-1, 1.5 and 2: one LayerNorm for both blocks, which are computed side by side, and biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import (
    FINAL_NORM,
    FINAL_NORM_BIAS,
    OUTPUT_BIAS,
    OUTPUT_ROWS,
    TIED_OUTPUT_ROWS,
)
from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import GQA, PROJ, PROJ_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import (
    PARALLEL_LAYER_NORM,
    layer_norm,
)
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

PHI_Q_NORM, PHI_K_NORM = (logical(f"self_attention.{side}_layernorm_with_bias.weight", "head_dim") for side in "qk")
PHI_Q_NORM_BIAS, PHI_K_NORM_BIAS = (logical(f"self_attention.{side}_layernorm_with_bias.bias", "head_dim") for side in "qk")
HEAD_NORMS = (
    row("self_attn.q_layernorm.weight", PHI_Q_NORM, "head_dim"),
    row("self_attn.q_layernorm.bias", PHI_Q_NORM_BIAS, "head_dim"),
    row("self_attn.k_layernorm.weight", PHI_K_NORM, "head_dim"),
    row("self_attn.k_layernorm.bias", PHI_K_NORM_BIAS, "head_dim"),
)


def phi_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm for both blocks, which are computed side by side."""
    return LayerRows(family.norms + family.attention + (HEAD_NORMS if facts.flag("qk_layernorm") else ()) + family.mlp)


FAMILY = replace(
    llama2.FAMILY,
    name="phi",
    title="Phi-1, Phi-1.5, Phi-2",
    model_types=("phi", "phi-msft"),
    architectures=("PhiForCausalLM",),
    norms=PARALLEL_LAYER_NORM,
    attention=(
        *GQA[:3],
        *QKV_BIASES,
        row("self_attn.dense.weight", PROJ, "hidden (group query head_dim)"),
        row("self_attn.dense.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=ungated("mlp.fc1", "mlp.fc2", biased=True),
    sizes=(gqa_sizes, ungated_sizes),
    layer=phi_layer,
    fields=("qk_layernorm",),
    final_norm=layer_norm("model.final_layernorm", FINAL_NORM, FINAL_NORM_BIAS),
    output=(*OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    tied_output=(*TIED_OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    names={"epsilon": "layer_norm_eps"},
    partial_rotary=0.5,
    megatron=PLAIN,
)
