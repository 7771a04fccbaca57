"""Nemotron-H, Nemotron Nano 2 and Nemotron 3: a layer is a norm and one mixer, which is Mamba-2's, attention, experts or a dense block.

The pattern says which (hybrid_override_pattern: M, *, E, -; or a list). Blocks have no gate; experts may work in a narrower space of their
own (moe_latent_size), for which Megatron's experts have no place.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT_ROWS
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PROJ, QKV, gqa_sizes
from convsvc.blocks.mamba import MAMBA_FINAL_NORM, MIXER, MIXER_NORM, mamba_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, ROUTER_BIAS, SHARED_FC1, SHARED_FC2
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.blocks.own import own
from convsvc.errors import SourceError
from convsvc.families import mamba2
from convsvc.models.facts import Facts, shown
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

LATENT_FC1 = logical("mlp.experts.latent_fc1.weight", "expert moe_latent glu expert_ffn", over="moe_latent", linear="experts")
LATENT_FC2 = logical("mlp.experts.latent_fc2.weight", "expert expert_ffn moe_latent", over="expert_ffn", linear="experts")
ATTENTION = (
    row("norm.weight", INPUT_NORM, "hidden"),
    row("mixer.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("mixer.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("mixer.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("mixer.o_proj.weight", PROJ, "hidden (group query head_dim)"),
)
NORM = row("norm.weight", PRE_MLP_NORM, "hidden")
DENSE = (
    NORM,
    row("mixer.up_proj.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mixer.down_proj.weight", FC2, "hidden ffn"),
)
ROUTED = (
    row("mixer.experts.{expert}.up_proj.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("mixer.experts.{expert}.down_proj.weight", EXPERT_FC2, "hidden expert_ffn"),
)
LATENT = (
    own("mixer.fc1_latent_proj.weight", "moe_latent hidden"),
    own("mixer.fc2_latent_proj.weight", "hidden moe_latent"),
    row("mixer.experts.{expert}.up_proj.weight", LATENT_FC1.at(glu="0"), "expert_ffn moe_latent"),
    row("mixer.experts.{expert}.down_proj.weight", LATENT_FC2, "moe_latent expert_ffn"),
)
SPARSE = (
    NORM,
    row("mixer.gate.weight", ROUTER, "expert hidden"),
    row("mixer.gate.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32"),
    row("mixer.shared_experts.up_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("mixer.shared_experts.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
)
PACKED = (
    row("mixer.experts.up_proj", EXPERT_FC1.at(glu="0"), "expert expert_ffn hidden"),
    row("mixer.experts.down_proj", EXPERT_FC2, "expert hidden expert_ffn"),
    row("mixer.experts.up_proj", LATENT_FC1.at(glu="0"), "expert expert_ffn moe_latent"),
    row("mixer.experts.down_proj", LATENT_FC2, "expert moe_latent expert_ffn"),
)
# By whatever a configuration calls them: its pattern, its list, transformers 5's list.
KINDS = {
    "M": "mamba", "*": "attention", "E": "moe", "-": "mlp", "mamba": "mamba", "attention": "attention", "moe": "moe", "mlp": "mlp",
    "linear_attention": "mamba", "full_attention": "attention",
}  # fmt: skip
# What transformers' class takes where nothing is said.
USUAL = ("mamba", "moe", "attention", "mlp")


def kinds_of(facts: Facts) -> tuple[str, ...]:
    """What each layer is. Raises SourceError where nothing says it, or something that is not known."""
    listed = facts.get("layers_block_type", "layer_types", "hybrid_override_pattern", default=USUAL)
    if not isinstance(listed, str | list | tuple):
        raise SourceError(f"{facts.origin} does not say hybrid_override_pattern or layer_types", do="complete it")
    unknown = [each for each in listed if each not in KINDS]
    if unknown or len(listed) < facts.num_layers:
        raise SourceError(f"{facts.origin}: the layers' kinds are {shown(listed)}; each of {facts.num_layers} must be M, *, E or -")
    return tuple(KINDS[each] for each in listed)


def one_mixer_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """The layer's one mixer with its norm."""
    kind = kinds_of(facts)[layer]
    if kind == "mamba":
        return mamba2.mixer_layer(replace(family, norms=(row("norm.weight", MIXER_NORM, "hidden"),), attention=MIXER), facts, layer)
    if kind == "moe":
        return LayerRows(SPARSE + (LATENT if facts.get("moe_latent_size") else ROUTED), dense=False)
    return LayerRows(ATTENTION if kind == "attention" else DENSE)


def nemotron_h_sizes(facts: Facts) -> dict[str, int]:
    """Of every kind of layer that there is. A Mamba-2 head's state is ssm_state_size here, and attention's heads are head_dim wide."""
    state = facts.first_number(("ssm_state_size", "state_size", "mamba_state_dim"))
    kinds = set(kinds_of(facts))
    sizes = {"glu": 1, "ffn": facts.number("ffn", default=0)}
    if "mamba" in kinds:
        sizes |= mamba_sizes(Facts({**facts.values, "mamba_state_dim": state}, facts.origin))
    if "attention" in kinds:
        head_dim = facts.get("attention_head_dim", "head_dim", "kv_channels")
        sizes |= gqa_sizes(Facts({**facts.values, "head_dim": head_dim}, facts.origin))
    if "moe" in kinds:
        shared = facts.first_number(("moe_shared_expert_intermediate_size",))
        sizes |= {"expert": facts.number("experts"), "expert_ffn": facts.number("expert_ffn"), "shared_ffn": shared}
        latent = facts.first_number(("moe_latent_size",))
        sizes |= {"moe_latent": latent} if latent else {}
    return sizes


FAMILY = replace(
    mamba2.FAMILY,
    name="nemotron-h",
    title="Nemotron-H, Nemotron Nano 2, Nemotron 3",
    model_types=("nemotron_h",),
    architectures=("NemotronHForCausalLM",),
    norms=(),
    attention=ATTENTION,
    mlp=DENSE,
    experts=SPARSE,
    packed=PACKED,
    sizes=(nemotron_h_sizes,),
    layer=one_mixer_layer,
    embedding=(row("backbone.embeddings.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("backbone.norm_f.weight", MAMBA_FINAL_NORM, "hidden"),),
    output=OUTPUT_ROWS,
    shown_by=None,
    names={"experts": "n_routed_experts", "shared": "moe_shared_expert_intermediate_size", "epsilon": "layer_norm_epsilon"},
    fields=("hybrid_override_pattern", "layers_block_type", "layer_types", "moe_latent_size", "ssm_state_size"),
)
