"""Model families: one module each, named as users type it. A new family is one new file and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from convsvc.errors import JobError
from convsvc.families import llama2, qwen3, qwen3_moe, qwen25
from convsvc.families.facts import Facts
from convsvc.families.model import Family, Model

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (llama2.FAMILY, qwen25.FAMILY, qwen3.FAMILY, qwen3_moe.FAMILY)}
)


def find_family(stated: str | None, facts: Facts) -> Family:
    """The family that the job names, or that the configuration shows: by MindSpeed's model_type_hf, architectures, or model_type.

    Raises JobError if there is no such family, or none shows.
    """
    if stated is not None:
        return _named(stated)
    saved = facts.get("model_type_hf")
    if saved in FAMILIES:
        return FAMILIES[saved]
    for architecture in facts.get("architectures", default=()):
        for family in FAMILIES.values():
            if architecture in family.architectures:
                return family
    for family in FAMILIES.values():
        if facts.get("model_type") in family.model_types:
            return family
    shown = f"architectures {facts.get('architectures')}, model_type {facts.get('model_type')!r}"
    raise JobError(
        f"{facts.origin} does not show a model family convsvc knows ({shown})", do=f"state model_type: {', '.join(FAMILIES)}"
    )


def _named(name: str) -> Family:
    try:
        return FAMILIES[name]
    except KeyError:
        raise JobError(f"model_type is {name!r}; known are {', '.join(FAMILIES)}") from None


__all__ = ["FAMILIES", "Facts", "Family", "Model", "find_family"]
