"""OPT: learned positions (two more than it says), LayerNorms, biases everywhere, a feed-forward block without a gate.

transformers 5.23, OPTDecoder.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, POSITIONS
from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import GQA, PROJ, PROJ_BIAS, QKV_BIASES, headed_sizes
from convsvc.blocks.norms import (
    INPUT_NORM,
    INPUT_NORM_BIAS,
    ONLY_POST_ATTENTION_NORM,
    ONLY_POST_MLP_NORM,
    PRE_MLP_NORM,
    PRE_MLP_NORM_BIAS,
    layer_norm,
)
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

ATTENTION = (*GQA[:3], row("self_attn.out_proj.weight", PROJ, "hidden (group query head_dim)"))
ATTENTION_BIASES = (*QKV_BIASES, row("self_attn.out_proj.bias", PROJ_BIAS, "hidden"))
NORMS = layer_norm("self_attn_layer_norm", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm("final_layer_norm", PRE_MLP_NORM, PRE_MLP_NORM_BIAS)
AFTER_BIASES = (logical("only_post_attention_layernorm.bias", "hidden"), logical("only_post_mlp_layernorm.bias", "hidden"))
NORMS_AFTER = layer_norm("self_attn_layer_norm", ONLY_POST_ATTENTION_NORM, AFTER_BIASES[0]) + layer_norm(
    "final_layer_norm", ONLY_POST_MLP_NORM, AFTER_BIASES[1]
)
ENDS = (
    row("model.decoder.embed_tokens.weight", EMBEDDING, "vocab hidden", also=("decoder.embed_tokens.weight",)),
    row("model.decoder.embed_positions.weight", POSITIONS, "position hidden", also=("decoder.embed_positions.weight",)),
)


def opt_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Norms before both blocks or after them, with biases or without."""
    norms = NORMS if facts.flag("do_layer_norm_before", default=True) else NORMS_AFTER
    norms = norms if facts.flag("layer_norm_elementwise_affine", default=True) else ()
    biased = facts.flag("enable_bias", default=True)
    return LayerRows(norms + ATTENTION + (ATTENTION_BIASES if biased else ()) + ungated("fc1", "fc2", biased=biased))


def opt_sizes(facts: Facts) -> dict[str, int]:
    """position: two more than the configuration says, which stand before the first."""
    return {"position": facts.first_number(("max_position_embeddings",), default=2048) + 2}


FAMILY = replace(
    llama2.FAMILY,
    name="opt",
    title="OPT",
    model_types=("opt",),
    architectures=("OPTForCausalLM",),
    norms=NORMS,
    attention=ATTENTION + ATTENTION_BIASES,
    mlp=ungated("fc1", "fc2", biased=True),
    flags=(),
    sizes=(headed_sizes, ungated_sizes, opt_sizes),
    layer=opt_layer,
    embedding=ENDS,
    final_norm=layer_norm("model.decoder.final_layer_norm", FINAL_NORM, FINAL_NORM_BIAS),
    tied_by_default=True,
    layer_prefix="model.decoder.layers.{layer}.",
    distinguish=lambda facts: (
        facts.get("word_embed_proj_dim") in (None, facts.get("hidden_size")) and facts.flag("do_layer_norm_before", default=True)
    ),
    names={"ffn": "ffn_dim"},
    fields=("do_layer_norm_before", "enable_bias", "max_position_embeddings"),
    megatron={**PLAIN, "position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": False},
)
