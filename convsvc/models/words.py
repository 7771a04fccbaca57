"""What decides how weights are computed with and shows in no tensor: rotary positions, epsilons, windows, the router's choices. Pure.

A configuration says these in Hugging Face's fields, saved args in Megatron's too. Megatron's defaults stand in args that a converter
wrote without being meant, so there they count for nothing; in args that training saved, it computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from convsvc.models.facts import Facts, shown
from convsvc.models.family import Family
from convsvc.models.rope import SCALING, rope_of

# Only a configuration, or args that a converter made of one, have these.
HUGGING_FACE = ("num_hidden_layers", "model_type_hf", "architectures", "model_type")


class Said(NamedTuple):
    """A value, and the field that says it."""

    field: str
    value: Any

    def __str__(self) -> str:
        return f"{self.field} {shown(self.value)}"


@dataclass(frozen=True, slots=True)
class Word:
    """Something that both sides say by names of their own: `fields` are Hugging Face's, the first is the one to write.

    `args` are Megatron's, `default` what stands in them where nobody set them. `take` makes of a Megatron value Hugging Face's; None
    means that it says nothing. `config` reads a configuration where a field alone does not tell.
    """

    fields: tuple[str, ...]
    args: tuple[str, ...] = ()
    default: Any = None
    take: Callable[[Facts, Any], Any] = lambda facts, value: value
    config: Callable[[Facts], Said | None] | None = None

    def in_config(self, facts: Facts) -> Said | None:
        if self.config is not None:
            return self.config(facts)
        return next((Said(name, facts.get(name)) for name in self.fields if facts.get(name) is not None), None)

    def in_args(self, facts: Facts) -> Said | None:
        """What Megatron's own fields say, if they are meant."""
        for name in self.args:
            given = facts.get(name)
            if given is None or name in self.fields or (is_converted(facts) and alike(given, self.default)):
                continue
            value = self.take(facts, given)
            if value is not None:
                return Said(name, value)
        return None

    def said(self, facts: Facts) -> Said | None:
        return self.in_config(facts) or self.in_args(facts)


def is_converted(facts: Facts) -> bool:
    """Whether Hugging Face's names are there: a configuration, or args which a converter made of one."""
    return any(facts.get(name) is not None for name in HUGGING_FACE)


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same but for how they are written.

    >>> alike(10000, 10000.0), alike([1, 2.0], (1, 2)), alike(True, 1), alike(1e-5, 9.999999747378752e-06)
    (True, True, False, True)
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def _flat(facts: Facts, field: str) -> Said | None:
    """A rope parameter that is the same for all layers, as it is usually stored."""
    values = {name: rope[field] for name, rope in rope_of(facts).items() if rope.get(field) is not None}
    found = list(values.values())
    return Said(field, found[0]) if found and all(alike(each, found[0]) for each in found) else None


def _scaling(facts: Facts) -> Said | None:
    ropes = rope_of(facts)
    kind = ropes[""].get("rope_type") if "" in ropes else None
    if kind is None or kind == "default":
        return None
    return Said("rope_scaling", {"rope_type": kind} | {name: ropes[""][name] for name in SCALING if ropes[""].get(name) is not None})


def _trained_scaling(facts: Facts, kind: Any) -> Any:
    """Megatron core's use_rope_scaling is Llama 3's (megatron/core/models/common/embeddings/rotary_pos_embedding.py)."""
    if kind is True:
        factor = facts.get("rope_scaling_factor")
        return {"rope_type": "llama3"} | ({} if factor is None else {"factor": factor})
    if not isinstance(kind, str) or kind in ("rope", "default"):
        return None
    # Latent attention has names of its own for the factor and the kind (megatron/core/transformer/transformer_config.py).
    factor = "rope_scaling_factor" if facts.get("rope_type") != kind else "rotary_scaling_factor"
    names = {"factor": factor, "original_max_position_embeddings": "rope_scaling_original_max_position_embeddings"}
    given = {name: facts.get(names.get(name, f"rope_scaling_{name}"), name) for name in SCALING}
    return {"rope_type": kind} | {name: value for name, value in given.items() if value is not None}


def _partial(facts: Facts) -> Said | None:
    said = _flat(facts, "partial_rotary_factor")
    dim, head_dim = facts.get("rotary_dim"), facts.get("head_dim")
    if said is None and isinstance(dim, int) and isinstance(head_dim, int) and head_dim:
        return Said("rotary_dim", dim / head_dim)
    return said


def _window(facts: Facts) -> Said | None:
    size = facts.get("sliding_window")
    return None if size is None or facts.get("use_sliding_window") is False else Said("sliding_window", size)


def _trained_window(facts: Facts, value: Any) -> Any:
    """(left, right): a token sees as many before it, and itself (megatron/core/transformer/transformer_config.py, window_size)."""
    left = value[0] if isinstance(value, list | tuple) and value else value
    return left + 1 if isinstance(left, int) and left >= 0 else None


def _activation(facts: Facts, value: Any) -> Any:
    return "silu" if value is True else None


def _normalised(facts: Facts, value: Any) -> Any:
    """Of a softmax over the chosen experts alone, or over all (core/transformer/moe/moe_utils.py); a sigmoid's scores sum up to 1 there.

    Of dense models, and where training has a word of its own for it (MindSpeed-LLM), it says nothing.
    """
    if not isinstance(value, bool) or not facts.get("num_experts") or facts.get("norm_topk_prob") is not None:
        return None
    return not value or facts.get("moe_router_score_function") == "sigmoid"


ROPE_BASE = Word(("rope_theta",), ("rotary_base",), 10000, config=lambda facts: _flat(facts, "rope_theta"))
ROPE_SCALING = Word(("rope_scaling",), ("rope_scaling_type", "use_rope_scaling", "rope_type"), False, _trained_scaling, _scaling)
PARTIAL = Word(("partial_rotary_factor",), ("rotary_percent",), 1.0, config=_partial)
EPSILON = Word(
    ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "layernorm_epsilon", "norm_eps"), ("norm_epsilon", "layernorm_epsilon"), 1e-5
)
ACTIVATION = Word(("hidden_activation", "hidden_act"), ("swiglu",), False, _activation)
WINDOW = Word(("sliding_window",), ("window_size",), None, _trained_window, _window)
NORMALISED = Word(("norm_topk_prob",), ("moe_router_pre_softmax",), False, _normalised)
CHOSEN = Word(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), ("moe_router_topk",), 2)

WORDS: tuple[Word, ...] = (
    ROPE_BASE,
    ROPE_SCALING,
    PARTIAL,
    EPSILON,
    ACTIVATION,
    WINDOW,
    CHOSEN,
    NORMALISED,
    Word(("routed_scaling_factor",), ("moe_router_topk_scaling_factor",)),
    Word(("scoring_func", "score_function"), ("moe_router_score_function",), "softmax"),
    Word(("n_group",), ("moe_router_num_groups",)),
    Word(("topk_group",), ("moe_router_group_topk",)),
    Word(("indexer_rope_interleave",), ("dsa_indexer_rope_interleaved",)),
    # Fields of one name.
    *(Word((name,)) for name in (
        "topk_method", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "rope_interleave",
        "index_topk", "index_topk_freq", "layer_types", "no_rope_layers", "max_window_layers", "logit_scale", "logits_scaling",
        "embedding_multiplier", "residual_multiplier", "attention_multiplier", "attention_scaling", "mup_width_multiplier", "scale_emb",
        "scale_depth", "dim_model_base", "zero_expert_type", "mla_scale_q_lora", "mla_scale_kv_lora", "time_step_limit", "chunk_size",
        "norm_before_gate", "clip_qkv", "use_qk_norm", "qk_norm_type", "router_scaling_factor", "swiglu_limit", "hc_sinkhorn_iters",
        "hc_eps", "compress_rope_theta",
    )),
)  # fmt: skip


def contradictions(ours: Facts, theirs: Facts, family: Family) -> Iterator[str]:
    """A line for each word that the two say differently: `ours` comes with the weights, `theirs` will lie beside them."""
    for word in WORDS:
        one, other = word.said(ours), word.said(theirs)
        if word is PARTIAL and one is not None and other is None:
            other = Said("partial_rotary_factor (its class's default)", family.partial_rotary)
        if one is not None and other is not None and not _agree(word, one, other):
            yield f"{ours.origin}: {one}; {theirs.origin}: {other}"


def silences(ours: Facts, theirs: Facts) -> Iterator[str]:
    """A line for each word that training would have had to be told, and was not, though a configuration says it."""
    for word in (ROPE_SCALING, WINDOW):
        other = word.said(theirs)
        if other is not None and word.said(ours) is None and not is_converted(ours):
            yield f"{theirs.origin} says {other}; {ours.origin} say nothing of it"


def _agree(word: Word, one: Said, other: Said) -> bool:
    if word is PARTIAL and one.field == "rotary_percent" and alike(one.value, 1.0):
        # Megatron's default, which stands in the args of models that say the same by another name.
        return True
    if word is WINDOW and "window_size" in (one.field, other.field):
        # Some count the token itself among those before it.
        return one.value - other.value in (0, 1)
    if isinstance(one.value, Mapping) and isinstance(other.value, Mapping):
        return all(alike(one.value[name], other.value[name]) for name in one.value.keys() & other.value.keys())
    return alike(one.value, other.value)


def own_contradictions(facts: Facts) -> Iterator[str]:
    """A line for each word that Hugging Face's and Megatron's names in the same args say differently; defaults are not meant.

    MindSpeed-LLM's converter saves swiglu for every family, so that it is not compared.
    """
    for word in WORDS:
        one, other = word.in_config(facts), word.in_args(facts)
        if word is not ACTIVATION and one is not None and other is not None and not _agree(word, one, other):
            yield f"{one}, {other}"


def foreign_computations(facts: Facts, family: Family) -> Iterator[str]:
    """A line for each thing that training was told to compute, and the family's Hugging Face model computes otherwise."""
    if (facts.get("apply_layernorm_1p") is True or facts.get("layernorm_zero_centered_gamma") is True) and not family.zero_centred:
        yield "apply_layernorm_1p True: the stored norms are what is added to 1, and this family's norms are multiplied as they are"
    if facts.get("rotary_interleaved") is True and not family.megatron.get("rotary_interleaved"):
        yield "rotary_interleaved True: neighbours in a head are rotated together; this family rotates its halves"
    neighbours = facts.get("dsa_indexer_rope_interleaved")
    if isinstance(neighbours, bool) and neighbours != family.megatron.get("dsa_indexer_rope_interleaved", False):
        what = ("halves", "neighbours")
        yield f"dsa_indexer_rope_interleaved {neighbours}: indexers rotate {what[neighbours]}; this family's rotate {what[not neighbours]}"
    if facts.get("position_embedding_type") == "none" and family.megatron.get("position_embedding_type") != "none":
        yield "position_embedding_type none: trained without positions; this family rotates queries and keys"
