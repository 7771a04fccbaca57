"""Model families: one module each, named as users type it, with `FAMILY` (or `FAMILIES`, for siblings) in it.

A new family is one new file: every module of this package is looked at.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from convsvc.errors import JobError
from convsvc.families.facts import Facts, shown
from convsvc.families.model import Family, Model, Wanted


def _load() -> Mapping[str, Family]:
    families: dict[str, Family] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = import_module(f"{__name__}.{info.name}")
        for family in getattr(module, "FAMILIES", None) or ([module.FAMILY] if hasattr(module, "FAMILY") else []):
            if family.name in families:
                raise ImportError(f"two families are called {family.name}")
            families[family.name] = family
    return MappingProxyType(families)


FAMILIES: Mapping[str, Family] = _load()


def find_family(stated: str | None, facts: Facts) -> Family:
    """The family that the job names, or that the configuration shows.

    A configuration shows a family by MindSpeed-LLM's model_type_hf, else by architectures or model_type and the family's own test of
    other fields (`distinguish`); one with neither, by fields that only one family has (`shown_by`). Raises JobError if there is no such
    family, or not exactly one shows.
    """
    if stated is not None:
        return _named(stated)
    saved = facts.get("model_type_hf")
    if isinstance(saved, str) and saved in FAMILIES:
        return FAMILIES[saved]
    fitting = [family for family in FAMILIES.values() if _shows(family, facts)]
    if len(fitting) == 1:
        return fitting[0]
    what = f"architectures {shown(facts.get('architectures'))}, model_type {shown(facts.get('model_type'))}"
    if fitting:
        names = ", ".join(family.name for family in fitting)
        raise JobError(f"{facts.origin} ({what}) fits several model families: {names}", do="state model_type")
    raise JobError(f"{facts.origin} shows no known model family ({what})", do=f"state model_type: {', '.join(FAMILIES)}")


def _shows(family: Family, facts: Facts) -> bool:
    architectures = facts.items("architectures", str) or ()
    if not architectures and facts.get("model_type") is None:
        return family.shown_by is not None and family.shown_by(facts)
    by_architecture = any(each in family.architectures for each in architectures)
    named = by_architecture if architectures else facts.get("model_type") in family.model_types
    return named and (family.distinguish is None or family.distinguish(facts))


def _named(name: str) -> Family:
    try:
        return FAMILIES[name]
    except KeyError:
        raise JobError(f"model_type is {name!r}; known are {', '.join(FAMILIES)}") from None


__all__ = ["FAMILIES", "Facts", "Family", "Model", "Wanted", "find_family"]
