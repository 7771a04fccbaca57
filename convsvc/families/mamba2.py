"""Mamba-2: layers that are a norm and a mixer, nothing else. Also as state-spaces publishes it (d_model, n_layer, ssm_cfg)."""

from __future__ import annotations

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.blocks.mamba import MAMBA_FINAL_NORM, MIXER, MIXER_BIASES, MIXER_CONV_BIAS, MIXER_NORM, mamba_sizes
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row


def mixer_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A norm and a mixer, whose convolution has a bias unless the configuration says otherwise."""
    conv_bias = MIXER_CONV_BIAS if facts.flag("use_conv_bias", default=True) else ()
    return LayerRows(family.norms + family.attention + conv_bias + (MIXER_BIASES if facts.flag("use_bias") else ()))


def is_state_spaces(facts: Facts) -> bool:
    """Whether this is a configuration of mamba_ssm's, for its second generation; it names no architecture."""
    config = facts.get("ssm_cfg")
    return isinstance(config, dict) and config.get("layer") == "Mamba2"


FAMILY = Family(
    name="mamba2",
    title="Mamba-2",
    model_types=("mamba2",),
    architectures=("Mamba2ForCausalLM",),
    norms=(row("norm.weight", MIXER_NORM, "hidden"),),
    attention=MIXER,
    mlp=(),
    sizes=(mamba_sizes,),
    layer=mixer_layer,
    names={"epsilon": "layer_norm_epsilon"},
    # transformers' name, and state-spaces'.
    embedding=(row("backbone.embeddings.weight", EMBEDDING, "vocab hidden", also=("backbone.embedding.weight",)),),
    final_norm=(row("backbone.norm_f.weight", MAMBA_FINAL_NORM, "hidden"),),
    layer_prefix="backbone.layers.{layer}.",
    shown_by=is_state_spaces,
    megatron={"position_embedding_type": "none", "swiglu": False, "use_rotary_position_embeddings": False},
)
