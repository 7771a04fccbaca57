"""Which family a configuration shows, and what is said of one that shows none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.errors import JobError
from convsvc.models.facts import Facts, shown
from convsvc.models.family import Family

# Where a multimodal configuration keeps that of its language model.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
# What shows that a model has more parts than a language model.
OTHER_PARTS = re.compile(
    r"^(mm_)?(vision|visual|audio|image|vit|projector|speech)(_config|_tower|_encoder|_tower_name)?$|^vision_.*config$"
)
# Heads of models that are no language models, by the end of the class's name.
OTHER_HEADS = {
    "ForSequenceClassification": "a classifier",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model for question answering",
    "RewardModel": "a reward model",
    "ForRewardModeling": "a reward model",
}


def detect_family(families: Iterable[Family], facts: Facts) -> Family:
    """The one family that the configuration shows.

    By architectures and model_type: a family that both name comes before one that architectures names, and that before one that only
    model_type names (a class of somebody's own). Raises JobError if there is none, or more than one.
    """
    families = tuple(families)
    fitting = _fitting(tuple(family for family in families if family.towers), facts)
    if not fitting and not _other_parts(facts):
        fitting = _fitting(families, facts)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(family.name for family in fitting)
        raise JobError(f"{facts.origin} ({_named(facts)}) fits several model families: {names}", do="state model_type")
    raise _unknown(families, facts)


def _fitting(families: tuple[Family, ...], facts: Facts) -> list[Family]:
    architectures = facts.items("architectures", str) or ()
    kind = facts.get("model_type")
    if not architectures and kind is None:
        return [family for family in families if family.shown_by is not None and family.shown_by(facts)]
    by_class = [family for family in families if set(architectures).intersection(family.architectures)]
    by_kind = [family for family in families if kind in family.model_types] if not _other_head(architectures) else []
    both = [family for family in by_class if family in by_kind]
    named = both or by_class or by_kind
    return [family for family in named if family.distinguish is None or family.distinguish(facts)]


def _unknown(families: tuple[Family, ...], facts: Facts) -> JobError:
    """What the configuration is instead, in the first line: a model with parts of other kinds, or with a head of another kind."""
    do = f"state model_type: {', '.join(family.name for family in families)}"
    architectures = facts.items("architectures", str) or ()
    head = _other_head(architectures)
    if head:
        body = _fitting(families, Facts({**facts.values, "architectures": []}, facts.origin))
        around = f", its body is {body[0].name}" if len(body) == 1 else ""
        return JobError(f"{facts.origin} is no language model: {architectures[0]} is {head}{around}", do="convert the language model")
    part = next((name for name in TEXT_PARTS if isinstance(facts.get(name), Mapping)), None)
    if part is not None:
        said = _text_part(families, facts, part)
        return JobError(f"{facts.origin} is a multimodal model ({_named(facts)}): {said}", do="convert its text part as a model of its own")
    others = _other_parts(facts)
    if others:
        body = _fitting(families, facts)
        text = f"its text part is of the family {body[0].name}" if len(body) == 1 else "of no known family"
        return JobError(f"{facts.origin} is a multimodal model ({_named(facts)}, with {', '.join(others[:3])}): {text}", do=do)
    return JobError(f"{facts.origin} shows no known model family ({_named(facts)})", do=do)


def _text_part(families: tuple[Family, ...], facts: Facts, part: str) -> str:
    """What a multimodal configuration's text part is."""
    nested: dict[str, Any] = dict(facts.get(part))
    # Qwen's omni models keep it one level down.
    below = next((name for name in TEXT_PARTS if isinstance(nested.get(name), Mapping)), None)
    if below is not None:
        part, nested = f"{part}.{below}", dict(nested[below])
    inner = Facts(nested, f"{facts.origin}, {part}")
    fitting = _fitting(families, inner)
    if not fitting and str(inner.get("model_type", default="")).endswith("_text"):
        fitting = _fitting(families, Facts({**nested, "model_type": inner.get("model_type").removesuffix("_text")}, inner.origin))
    if len(fitting) == 1:
        return f"its text part ({part}) is of the family {fitting[0].name}"
    return f"its text part ({part}: {_named(inner)}) is of no known family"


def _other_parts(facts: Facts) -> list[str]:
    """The fields that describe or name an encoder of something else than text."""
    return sorted(name for name, value in facts.values.items() if OTHER_PARTS.match(name) and value and isinstance(value, Mapping | str))


def _other_head(architectures: Iterable[str]) -> str | None:
    return next((what for each in architectures for ending, what in OTHER_HEADS.items() if each.endswith(ending)), None)


def _named(facts: Facts) -> str:
    return f"architectures {shown(facts.get('architectures'))}, model_type {shown(facts.get('model_type'))}"


__all__ = ["detect_family"]
