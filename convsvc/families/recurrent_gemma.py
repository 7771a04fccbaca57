"""RecurrentGemma (Griffin): Gemma's norms around gated linear recurrences, and attention in every third layer (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_NORM
from convsvc.blocks.glu import GLU, GLU_BIASES
from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import called, own
from convsvc.families import gemma
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

RECURRENCE = (
    *(own(f"temporal_block.linear_{name}.weight", "lru hidden", over="hidden") for name in "xy"),
    *(own(f"temporal_block.linear_{name}.bias", "lru") for name in "xy"),
    own("temporal_block.linear_out.weight", "hidden lru", over="lru"),
    own("temporal_block.linear_out.bias", "hidden"),
    own("temporal_block.conv_1d.weight", "lru single conv_kernel"),
    own("temporal_block.conv_1d.bias", "lru"),
    own("temporal_block.rg_lru.recurrent_param", "lru"),
    *(own(f"temporal_block.rg_lru.{gate}_gate_weight", "lru_head lru_out lru_in") for gate in ("input", "recurrent")),
    *(own(f"temporal_block.rg_lru.{gate}_gate_bias", "lru_head lru_out") for gate in ("input", "recurrent")),
)
USUAL = ("recurrent", "recurrent", "attention")


def griffin_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A recurrence or attention, as block_types says over and over again."""
    kinds = facts.items("block_types", str) or USUAL
    if kinds[layer % len(kinds)] == "attention":
        return standard_layer(family, facts, layer)
    return standard_layer(replace(family, attention=RECURRENCE, flags=()), facts, layer)


def griffin_sizes(facts: Facts) -> dict[str, int]:
    """ffn is half of intermediate_size (RecurrentGemmaMlp); lru, the recurrence's width, whose gates are blocks of it, one a head."""
    lru, heads = facts.first_number(("lru_width",), default=facts.number("hidden")), facts.number("heads")
    sizes = {"lru": lru, "lru_head": heads, "lru_out": lru // max(heads, 1), "lru_in": lru // max(heads, 1)}
    return {
        "glu": 2,
        "ffn": facts.number("ffn") // 2,
        **sizes,
        "single": 1,
        "conv_kernel": facts.first_number(("conv1d_width",), default=4),
    }


FAMILY = replace(
    gemma.FAMILY,
    name="recurrent-gemma",
    title="RecurrentGemma",
    model_types=("recurrent_gemma",),
    architectures=("RecurrentGemmaForCausalLM",),
    norms=(row("temporal_pre_norm.weight", INPUT_NORM, "hidden"), row("channel_pre_norm.weight", PRE_MLP_NORM, "hidden")),
    attention=called((*GQA, *O_BIAS), self_attn="temporal_block"),
    mlp=called((*GLU, *GLU_BIASES), mlp="mlp_block"),
    flags=(("attention_bias", called(QKV_BIASES, self_attn="temporal_block")),),
    layer=griffin_layer,
    sizes=(gqa_sizes, griffin_sizes),
    final_norm=(row("model.final_norm.weight", FINAL_NORM, "hidden"),),
    partial_rotary=0.5,
    fields=("block_types", "lru_width", "conv1d_width"),
    megatron={},
)
