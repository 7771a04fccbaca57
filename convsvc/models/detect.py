"""Which family a configuration shows, and what is said of one that shows none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convsvc.errors import JobError, SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.family import Family

# Where a multimodal configuration keeps that of its language model.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
# What a part says that is a language model's, whatever it is called: how many layers, and how many tokens; so many parts deep at most.
LAYERS, VOCAB, DEPTH = ("num_hidden_layers", "num_layers", "n_layer", "n_layers"), "vocab_size", 3
# What wrappers add to the kind of their text part.
TEXT_ENDS = ("_text", "_vl_text", "_omni_text", "v_text", "_text_model", "_unified_text", "_thinker_text")
# What shows that a model has more parts than a language model.
OTHER_PARTS = re.compile(
    r"^(mm_)?(vision|visual|audio|image|vit|projector|speech)(_config|_tower|_encoder|_tower_name)?$|^vision_.*config$"
)
# Parts that have layers and tokens, and are no text decoder: they speak, they read ahead, they encode.
OTHER_DECODERS = re.compile(
    r"vision|visual|audio|image|video|speech|vit\b|talker|codec|code2wav|code_predictor|token2wav|draft|specul|encoder|quanti"
)
# Heads of models that are no language models, by the end of the class's name.
OTHER_HEADS = {
    "ForSequenceClassification": "a classifier",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model for question answering",
    "RewardModel": "a reward model",
    "ForRewardModeling": "a reward model",
}
# How the classes of language models end, whose beginning is that of the other heads'.
CAUSAL = ("ForCausalLM", "LMHeadModel")


def detect_family(families: Iterable[Family], facts: Facts) -> Family:
    """The one family that the configuration shows.

    By architectures and model_type: a family that both name comes before one that architectures names, and that before one that only
    model_type names (a class of somebody's own). Raises JobError if there is none, or more than one.
    """
    families = tuple(families)
    texts = tuple(family for family in families if not family.towers)
    towered = _fitting(tuple(family for family in families if family.towers), facts)
    fitting = [family for family in towered if _is_it(family, texts, facts)]
    if not fitting and not _other_parts(facts):
        fitting = _fitting(tuple(family for family in families if family not in towered), facts)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and not _other_parts(facts) and len(bodies := _bodies(texts, facts)) == 1:
        return headed(bodies[0], facts)
    if fitting:
        names = ", ".join(family.name for family in fitting)
        raise JobError(f"{facts.origin} ({_named(facts)}) fits several model families: {names}", do="state model_type")
    raise _unknown(families, facts)


def headed(body: Family, facts: Facts) -> Family:
    """The family itself; of a class with another head (a classifier) the body, whose head is carried along as it is."""
    head = _other_head(facts.items("architectures", str) or ())
    if head is None or body.towers or body.as_stored or not body.decoder:
        return body
    return replace(body, output=(), tied_output=(), heads=(), others=True, instead=head)


def _bodies(families: tuple[Family, ...], facts: Facts) -> list[Family]:
    """Of a class with another head, the families whose body it may have: by the kind, else by what the language model's class is called."""
    ending = next((end for each in facts.items("architectures", str) or () for end in OTHER_HEADS if each.endswith(end)), None)
    if ending is None:
        return []
    classes = [each.removesuffix(ending).removesuffix("For") for each in facts.items("architectures", str) or ()]
    by_kind = _fitting(families, Facts({**facts.values, "architectures": []}, facts.origin))
    named = {**facts.values, "architectures": [f"{each}{end}" for each in classes for end in CAUSAL], "model_type": None}
    return by_kind or _fitting(families, Facts(named, facts.origin))


def _is_it(towered: Family, texts: tuple[Family, ...], facts: Facts) -> bool:
    """Whether a model of several modules is there, and not its text alone under its class (a text model's kind, none of the towers' parts),
    nor a model of somebody else's under its kind (another class, whose towers this family's sizes cannot be read of)."""
    kind, classes = facts.get("model_type"), facts.items("architectures", str) or ()
    parts = {tower.part for tower in towered.towers if tower.part}
    if kind not in towered.model_types and any(kind in text.model_types for text in texts):
        return bool(parts & set(facts.values))
    if not classes or set(classes).intersection(towered.architectures):
        return True
    try:
        towered.build(facts)
    except SourceError:
        return False
    return True


def _fitting(families: tuple[Family, ...], facts: Facts) -> list[Family]:
    architectures = facts.items("architectures", str) or ()
    kind = facts.get("model_type")
    if not architectures and kind is None:
        return [family for family in families if family.shown_by is not None and family.shown_by(facts)]
    by_class = [family for family in families if set(architectures).intersection(family.architectures)]
    by_kind = [family for family in families if kind in family.model_types] if not _other_head(architectures) else []
    both = [family for family in by_class if family in by_kind]
    named = both or by_class or by_kind
    fitting = [family for family in named if family.distinguish is None or family.distinguish(facts)]
    # Others save their models under a class that is first of all somebody else's: with no kind said, it is that one's.
    own = [family for family in fitting if kind is None and family.architectures[0] in architectures]
    return own or fitting


def _unknown(families: tuple[Family, ...], facts: Facts) -> JobError:
    """What the configuration is instead, in the first line: a model with parts of other kinds, or with a head of another kind."""
    do = f"state model_type: {', '.join(family.name for family in families)}"
    architectures = facts.items("architectures", str) or ()
    head = _other_head(architectures)
    if head:
        body = _bodies(families, facts)
        around = f", its body is {body[0].name}" if len(body) == 1 else ""
        return JobError(f"{facts.origin} is no language model: {architectures[0]} is {head}{around}", do="convert the language model")
    text = text_part(facts)
    if text.steps or text.others:
        return _multimodal(families, facts, text)
    if facts.flag("is_encoder_decoder") or (isinstance(facts.get("encoder"), Mapping) and isinstance(facts.get("decoder"), Mapping)):
        return JobError(
            f"{facts.origin} is an encoder-decoder model ({_named(facts)}): no family of those is known",
            do="convert language models of one stack",
        )
    beyond = (
        'or repack it, or take it to torch DCP, under its own names: model_type "tensors", source.format "tensor-files"; '
        "convsvc inspect --draft-family begins a table for it"
    )
    return JobError(f"{facts.origin} shows no known model family ({_named(facts)})", do=f"{do}; {beyond}")


def _multimodal(families: tuple[Family, ...], facts: Facts, text: TextPart) -> JobError:
    """A model of more modules than a text decoder: what its text part is, and how that is converted."""
    fitting = _text_families(families, facts, text)
    part = f" ({'.'.join(text.steps)})" if text.steps else ""
    beside = f", with {', '.join(text.others[:3])}" if text.others and not text.steps else ""
    begins = f"{facts.origin} is a multimodal model ({_named(facts)}{beside})"
    if len(fitting) == 1:
        return JobError(
            f"{begins}: its text part{part} is of the family {fitting[0].name}; source.modules: [text_decoder] converts that",
            do="set source.modules to [text_decoder]: the other modules are carried along as they are",
        )
    names = ", ".join(family.name for family in families if not family.towers)
    said = f"{part.removesuffix(')')}: {_named(text.facts)})" if part else ""
    return JobError(
        f"{begins}: its text part{said} is of no known family",
        do=f"set source.modules to [text_decoder] and state model_type, if it is one of: {names}",
    )


@dataclass(frozen=True, slots=True)
class TextPart:
    """What a configuration says of the text: where (`steps` into it), and what other parts there are beside."""

    facts: Facts
    steps: tuple[str, ...]
    others: tuple[str, ...]


def text_part(facts: Facts) -> TextPart:
    """The innermost part that is about text; Qwen's omni models keep it one level down.

    It is known by what it is called, else, where sizes are not at the top, by what it says: layers and a vocabulary, as no other part.
    """
    values, steps = facts.values, []
    others = _other_parts(facts)
    while (name := _text_name(values)) is not None:
        steps.append(name)
        values = values[name]
    inner = Facts(values, f"{facts.origin}, {'.'.join(steps)}") if steps else facts
    return TextPart(inner, tuple(steps), tuple(others))


def _text_name(values: Mapping[str, Any], depth: int = 0) -> str | None:
    """What the part is called that is about text, or has the part that is; None where there is none, or two could be it.

    >>> _text_name({"lm": {"n_layer": 2, "vocab_size": 8}, "vision_config": {"num_layers": 2, "vocab_size": 8}})
    'lm'
    """
    named = next((name for name in TEXT_PARTS if isinstance(values.get(name), Mapping)), None)
    if named is not None or any(name in values for name in LAYERS) or depth > DEPTH:
        return named
    parts = {name: each for name, each in values.items() if isinstance(each, Mapping) and not OTHER_DECODERS.search(name)}
    speaking = [name for name, each in parts.items() if _speaks(each) or _text_name(each, depth + 1) is not None]
    return speaking[0] if len(speaking) == 1 and not {"encoder", "decoder"} <= values.keys() else None


def _speaks(part: Mapping[str, Any]) -> bool:
    return VOCAB in part and any(name in part for name in LAYERS)


def find_text(families: tuple[Family, ...], facts: Facts, stated: Family | None = None) -> tuple[TextPart, Family]:
    """The text decoder of a model of any modules: what is said of it, and its family, which is the stated one if there is one.

    Raises JobError where none shows, or several do.
    """
    text = text_part(facts)
    if stated is not None:
        return text, next((family for family in families if family.name == stated.text), stated)
    fitting = _text_families(families, facts, text)
    if len(fitting) == 1:
        return text, fitting[0]
    if fitting:
        names = ", ".join(family.name for family in fitting)
        raise JobError(f"{text.facts.origin} ({_named(text.facts)}) fits several model families: {names}", do="state model_type")
    raise _multimodal(families, facts, text)


def _text_families(families: tuple[Family, ...], facts: Facts, text: TextPart) -> list[Family]:
    """The text families that a model's text part shows: by its own words, by those of a model known with its towers, by others' names."""
    texts = tuple(family for family in families if not family.towers)
    inner = text.facts.values
    kind = str(inner.get("model_type") or "")
    for stem in dict.fromkeys((kind, *(kind.removesuffix(end) for end in TEXT_ENDS))):
        said = {**inner, "model_type": stem or None}
        if found := _fitting(texts, Facts(said, text.facts.origin)):
            return found
    around = {family.text for family in _fitting(tuple(family for family in families if family.towers), facts)}
    return [family for family in texts if family.name in around] or _by_ending(texts, facts, inner)


def _by_ending(texts: tuple[Family, ...], facts: Facts, inner: Mapping[str, Any]) -> list[Family]:
    """By how a class or a kind of somebody's own ends: LlavaLlamaForCausalLM, videollama3_qwen2."""
    origin = facts.origin
    for values in (inner, facts.values):
        classes = [str(each) for each in values.get("architectures") or ()]
        ends = {end for family in texts for end in family.architectures if any(each.endswith(end) for each in classes)}
        if ends:
            longest = max(ends, key=len)
            fitting = _fitting(texts, Facts({**inner, "architectures": [longest], "model_type": None}, origin))
            # Others save their models under a class that is first of all somebody else's.
            return [family for family in fitting if family.architectures[0] == longest] or fitting
        kind = str(values.get("model_type") or "")
        kinds = {end for family in texts for end in family.model_types if kind.endswith("_" + end)}
        if kinds:
            return _fitting(texts, Facts({**inner, "architectures": [], "model_type": max(kinds, key=len)}, origin))
    return []


def _other_parts(facts: Facts) -> list[str]:
    """The fields that describe or name an encoder of something else than text."""
    return sorted(name for name, value in facts.values.items() if OTHER_PARTS.match(name) and value and isinstance(value, Mapping | str))


def _other_head(architectures: Iterable[str]) -> str | None:
    return next((what for each in architectures for ending, what in OTHER_HEADS.items() if each.endswith(ending)), None)


def _named(facts: Facts) -> str:
    return f"architectures {shown(facts.get('architectures'))}, model_type {shown(facts.get('model_type'))}"


__all__ = ["TextPart", "detect_family", "find_text"]
