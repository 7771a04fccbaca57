"""StableLM: Llama with LayerNorms, or one for both blocks, and where it is said a norm for every head."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_LAYER_NORM
from convsvc.blocks.gqa import K_NORMS, QKV_BIASES
from convsvc.blocks.norms import LAYER_NORMS, PARALLEL_LAYER_NORM
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

EVERY_Q_NORM = logical("self_attention.every_q_layernorm.weight", "head head_dim")


def stablelm_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm where both blocks are computed side by side; a norm a head where the configuration says so."""
    head_norms = (
        row("self_attn.q_layernorm.norms.{head}.weight", EVERY_Q_NORM, "head_dim"),
        row("self_attn.k_layernorm.norms.{group}.weight", K_NORMS, "head_dim"),
    )
    norms = PARALLEL_LAYER_NORM if facts.flag("use_parallel_residual") else LAYER_NORMS
    biases = QKV_BIASES if facts.flag("use_qkv_bias") else ()
    return LayerRows(norms + family.attention + biases + (head_norms if facts.flag("qk_layernorm") else ()) + family.mlp)


def head_sizes(facts: Facts) -> dict[str, int]:
    """head: the queries, where each has something of its own."""
    return {"head": facts.number("heads")}


FAMILY = replace(
    llama2.FAMILY,
    name="stablelm",
    title="StableLM",
    model_types=("stablelm", "stablelm_epoch"),
    architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    norms=LAYER_NORMS,
    flags=(),
    sizes=(*llama2.FAMILY.sizes, head_sizes),
    layer=stablelm_layer,
    fields=("use_qkv_bias", "qk_layernorm", "use_parallel_residual"),
    final_norm=FINAL_LAYER_NORM,
    names={"epsilon": "layer_norm_eps"},
    partial_rotary=0.25,
    megatron={"normalization": "LayerNorm"},
)
