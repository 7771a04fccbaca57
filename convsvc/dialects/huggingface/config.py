"""The config.json of a new Hugging Face directory: made to follow from the job, and proven to describe the weights beside it.

transformers understands weights by this file alone. So the model is built a second time, from the configuration that will be written,
and must be the one that is converted: field by field, name by name, shape by shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convsvc.dialects.huggingface.stored_names import stored_names
from convsvc.encodings.release import QUANTISATION
from convsvc.errors import ConvsvcError, JobError, PlanError
from convsvc.families import find_family
from convsvc.models.describe import PER_LAYER, Words, dense_words, describe, reduce_lists
from convsvc.models.facts import Facts, shown
from convsvc.models.family import Family, Wanted
from convsvc.models.model import Model
from convsvc.models.scope import DECODER
from convsvc.models.unsure import with_sizes_of
from convsvc.models.words import ROPE_BASE, contradictions, foreign_computations, is_converted

SHOWN = 12
LAYER_COUNTS = ("num_layers", "num_hidden_layers", "n_layer")
TIES = ("tie_word_embeddings", "tie_embeddings")


def follow(config: Mapping[str, Any], model: Model, facts: Facts, origin: str) -> Words:
    """What must be written into a configuration so that it describes the model: only what may follow from a job, and only what differs.

    `facts` are the source's; where they say a field layer by layer and the configuration is one of more layers, theirs is taken.
    Raises PlanError if the configuration cannot be read at all.
    """
    wanted = _layers(config, model, facts)
    wanted |= _counts(config, model)
    have = describe(_rebuild({**config, **wanted}, model, origin))
    need = describe(model)
    if any(have.get(name) != need.get(name) for name in dense_words([], dict.fromkeys(need))):
        wanted |= dense_words([scope.dense for scope in model.layers()], {**config, **_dense_field(config, model.family)})
    may_follow = {"vocab_size", "num_hash_layers", *PER_LAYER}
    wanted |= {name: need[name] for name in need if name in may_follow and have.get(name) != need[name]}
    if have["tie_word_embeddings"] != model.tied:
        wanted[next((name for name in TIES if name in config), TIES[0])] = model.tied
    return {name: value for name, value in wanted.items() if name not in config or config[name] != value}


def silent_words(config: Facts, facts: Facts) -> Words:
    """The base of the rotary positions that training used, where the configuration leaves it to a class's default."""
    said = ROPE_BASE.said(facts)
    return {"rope_theta": said.value} if said is not None and not is_converted(facts) and ROPE_BASE.said(config) is None else {}


def without_quantisation(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The configuration of plain weights, and what was left out. transformers would look for the scales."""
    left_out = [name for name in QUANTISATION if name in config]
    plain = {name: value for name, value in config.items() if name not in left_out}
    text = config.get("text_config")
    if isinstance(text, Mapping) and any(name in text for name in QUANTISATION):
        plain["text_config"], inner = without_quantisation(text)
        left_out += [f"text_config.{name}" for name in inner]
    return plain, left_out


def prove(
    config: Mapping[str, Any], model: Model, written: Mapping[str, tuple[int, ...]], origin: str, packed: frozenset[str] = frozenset()
) -> None:
    """Raises PlanError unless the model that the configuration describes has these stored tensors (name: shape) and sizes.

    `packed` are the rows that are written in the place of others (`lay_model`).
    """
    rebuilt = _rebuild(config, model, origin)
    # MTP layers that are carried are no part of what is built: their number is compared with what the configuration says.
    counts = model.family.mtp.counts if model.family.mtp else ()
    need, have = ({name: value for name, value in describe(each).items() if name not in counts} for each in (model, rebuilt))
    faults = (
        _differing_words(need, have)
        + _miscounted(facts_of(config, model, origin).values, model, counts)
        + _differing_towers(rebuilt, model)
    )
    faults += _shorten(_differing_tensors(rebuilt, model, written, packed))
    if faults:
        raise PlanError(
            f"{origin} does not describe the weights that are written",
            facts=faults,
            do="give the config_dir of this very model (or mend its config.json)",
            details={"config": origin},
        )


def _miscounted(config: Mapping[str, Any], model: Model, counts: tuple[str, ...]) -> list[str]:
    """Where a configuration counts MTP layers. Qwen3-Next's is silent: its layer is there or not."""
    said, there = next((config[name] for name in counts if config.get(name) is not None), None), model.num_mtp + model.carried_mtp
    return [] if said is None or said == there else [f"{counts[0]}: config.json says {shown(said)}, the weights have {there}"]


def check_words(config: Facts, facts: Facts, model: Model) -> None:
    """Raises JobError if what the source's weights were trained with is not what the configuration says.

    A configuration of more layers than the source ever had is asked about those that are here.
    """
    config = Facts({**config.values, **_layers_beyond(config.values, model, facts)}, config.origin)
    faults = [f"{facts.origin}: {line}" for line in foreign_computations(facts, model.family)]
    faults += contradictions(facts, config, model.family)
    if faults:
        raise JobError(
            f"{config.origin} contradicts the source: a model loaded with it would compute something else",
            facts=faults,
            do="give a config_dir whose config.json says what the weights were trained with",
        )


def _rebuild(config: Mapping[str, Any], model: Model, origin: str) -> Model:
    """The model that the configuration describes, of the family that it shows (where it shows none, of the job's)."""
    facts = facts_of(config, model, origin)
    counts = model.family.mtp.counts if model.family.mtp else ()
    is_counted = any(facts.get(name) is not None for name in counts)
    try:
        family = shown_family(facts, model.family)
        num_mtp = facts.first_number(counts) - model.carried_mtp if is_counted else model.num_mtp
        return with_sizes_of(family.build(facts, Wanted(num_mtp=max(num_mtp, 0) if family.mtp else 0)), model)
    except ConvsvcError as error:
        raise PlanError(f"{origin} is not the configuration of a {model.family.name} model: {error.message}", facts=error.facts) from None


def facts_of(config: Mapping[str, Any], model: Model, origin: str) -> Facts:
    """A configuration as the model's family reads it: what it nests of the text lies at the top."""
    return model.family.flat(Facts(config, origin))


def shown_family(facts: Facts, stated: Family) -> Family:
    """The family that a configuration shows; the stated one where both share a model_type, or none shows."""
    try:
        shows = find_family(None, facts)
    except JobError:
        return stated
    return shows if stated.model_types and not set(shows.model_types) & set(stated.model_types) else stated


def _layers(config: Mapping[str, Any], model: Model, facts: Facts) -> Words:
    """The number of layers, and the lists with an entry for each of them."""
    count = next((config[name] for name in LAYER_COUNTS if isinstance(config.get(name), int)), None)
    if not count:
        return {}
    words: Words = {}
    if count == model.hidden_layers:
        words |= reduce_lists(config, model.kept, model.hidden_layers)
    elif count > model.num_layers:
        words |= reduce_lists(config, range(model.num_layers), count)
    own = {name: facts.get(name) for name in PER_LAYER if name in words and isinstance(facts.get(name), list)}
    if count != model.hidden_layers:
        words |= {name: value for name, value in own.items() if len(value) == len(words[name])}
    if count != model.num_layers:
        # transformers counts LongCat's layers twice under the other name.
        words |= {name: config[name] // count * model.num_layers for name in LAYER_COUNTS if isinstance(config.get(name), int)}
    return words


def _layers_beyond(config: Mapping[str, Any], model: Model, facts: Facts) -> Words:
    """As `_layers`, where the configuration has not as many layers as the source."""
    count = next((config[name] for name in LAYER_COUNTS if isinstance(config.get(name), int)), None)
    return _layers(config, model, facts) if count != model.hidden_layers else {}


def _counts(config: Mapping[str, Any], model: Model) -> Words:
    """How many MTP layers lie beside, where the configuration speaks of them."""
    names = model.family.mtp.counts if model.family.mtp else ()
    return {name: model.num_mtp + model.carried_mtp for name in names if config.get(name) is not None}


def _dense_field(config: Mapping[str, Any], family: Family) -> Words:
    name = family.names.get("dense")
    return {name: config.get(name)} if name else {}


def _differing_words(need: Words, have: Words) -> list[str]:
    return [
        f"{name}: config.json says {shown(have[name])}, the weights have {shown(need[name])}"
        for name in need
        if name in have and need[name] != have[name]
    ]


def _differing_towers(rebuilt: Model, model: Model) -> list[str]:
    """How the modules beside the decoder are made, in what their tensors' shapes do not say (heads)."""
    need, have = (
        {f"{scope.module}, {axis}": size for scope in each.scopes if scope.module != DECODER for axis, size in scope.sizes.items()}
        for each in (model, rebuilt)
    )
    return _differing_words(need, have)


def _differing_tensors(rebuilt: Model, model: Model, written: Mapping[str, tuple[int, ...]], packed: frozenset[str]) -> Iterator[str]:
    """Each stored tensor that one has and the other has not, or in another shape."""
    named = stored_names(rebuilt, packed)
    for name, (shape, is_required) in named.items():
        if name in written and written[name] != shape:
            yield f"shape     {name}: config.json makes it {list(shape)}, {list(written[name])} is written"
        elif name not in written and is_required:
            yield f"missing   {name} {list(shape)}: config.json speaks of it"
    carried = {each.name for each in model.carried}
    for name in written:
        if name not in named and name not in carried:
            yield f"left over {name} {list(written[name])}: config.json does not speak of it"


def _shorten(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"and {len(lines) - SHOWN} more"]
