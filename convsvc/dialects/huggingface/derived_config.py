"""A config.json that follows from the model and the saved args, for a source that has none and a job that gives none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convsvc.models.describe import Words, describe, main_dtype, name_of
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.words import ACTIVATION, CHOSEN, EPSILON, PARTIAL, ROPE_BASE, ROPE_SCALING, WORDS, Word

ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_dim")
# Beside what decides how weights are computed with: what args that a converter wrote still have of the configuration they came from.
ALSO = (
    "architectures", "model_type", "max_position_embeddings", "original_max_position_embeddings", "initializer_range", "bos_token_id",
    "eos_token_id", "pad_token_id", "use_cache", "use_sliding_window", "qk_norm_type", "attention_method", "router_bias",
    "use_routing_bias", "router_aux_loss_coef", "num_mtp_modules", "residual_in_fp32", "time_step_rank", "time_step_floor",
    "time_step_min", "time_step_max", "rms_norm", "mlp_layer_types", "full_attention_interval",
)  # fmt: skip
SCALINGS = ("rope_scaling", "rope_parameters", "rope_scaling_type", "use_rope_scaling")


def derive(model: Model, facts: Facts, dtypes: Mapping[str, int]) -> tuple[Words, list[str]]:
    """(the configuration, the fields that nothing says though the model computes with them). `dtypes`: bytes by dtype."""
    family = model.family
    named = {field for word in WORDS for field in word.fields}
    kept = {name: value for name in (*ALSO, *family.fields, *ROPE, *sorted(named)) if (value := facts.get(name)) is not None}
    config: Words = {"architectures": list(family.architectures[:1]), "model_type": next(iter(family.model_types), None)} | kept
    for word in WORDS:
        said = word.in_args(facts)
        if word is PARTIAL and said is not None and said.value == 1.0:
            # Megatron's default, which stands in the args of models that rotate less, too.
            continue
        if said is not None and word.in_config(Facts(config, "")) is None:
            config[_field(word, model)] = said.value
    # MTP layers that are carried lie beside: lists with an entry a layer speak of them, too.
    config |= describe(replace(model, scopes=(*model.scopes, *model.beside), beside=()))
    config["torch_dtype"] = main_dtype(dtypes)
    return {name: value for name, value in config.items() if value is not None or name == "q_lora_rank"}, _unknown(config, model, facts)


def _field(word: Word, model: Model) -> str:
    own = {EPSILON: "epsilon", CHOSEN: "chosen", ACTIVATION: "activation"}.get(word)
    return word.fields[0] if own is None else name_of(model.family, own)


def _unknown(config: Words, model: Model, facts: Facts) -> list[str]:
    rotates = model.family.megatron.get("position_embedding_type") != "none"
    needed = [EPSILON, *([ROPE_BASE] if rotates else []), *([CHOSEN] if model.num_experts else [])]
    unknown = [_field(word, model) for word in needed if word.in_config(Facts(config, "")) is None]
    if rotates and not any(name in facts.values for name in SCALINGS):
        unknown.append(ROPE_SCALING.fields[0])
    if model.family.partial_rotary != 1.0 and PARTIAL.in_config(Facts(config, "")) is None:
        unknown.append(PARTIAL.fields[0])
    return unknown
