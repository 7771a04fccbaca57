"""Model families: one module each, named as users type it, with `FAMILY` (or `FAMILIES`, for siblings) in it.

A new family is one new file: every module of this package is looked at.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Mapping
from importlib import import_module
from types import MappingProxyType

from convsvc.errors import JobError
from convsvc.models import unmodelled, wrapped
from convsvc.models.detect import detect_family, headed
from convsvc.models.facts import Facts
from convsvc.models.family import Family, Wanted
from convsvc.models.model import Model


def _load() -> Mapping[str, Family]:
    families: dict[str, Family] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = import_module(f"{__name__}.{info.name}")
        for family in getattr(module, "FAMILIES", None) or [module.FAMILY]:
            if family.name in families:
                raise ImportError(f"two families are called {family.name}")
            families[family.name] = family
    return MappingProxyType(families)


FAMILIES: Mapping[str, Family] = _load()


def find_family(stated: str | None, facts: Facts) -> Family:
    """The family that the job names, or that the configuration shows.

    A configuration shows a family by MindSpeed-LLM's model_type_hf, else by architectures and model_type (`detect_family`), and where
    several families share these by the family's own test of other fields (`distinguish`); one with neither, by fields that only one
    family has (`shown_by`). Raises JobError if there is no such family, or not exactly one shows.
    """
    inside = wrapped.placed(FAMILIES, facts)
    if inside is not None and stated in (None, inside.name):
        return inside
    if stated is not None:
        return headed(_named(stated), facts)
    saved = facts.get("model_type_hf")
    if isinstance(saved, str) and saved in FAMILIES:
        return FAMILIES[saved]
    return detect_family(FAMILIES.values(), facts)


def text_facts(stated: str | None, facts: Facts, names: Collection[str] | None) -> Facts:
    """What a configuration of any modules says of its text decoder, of the family that the job states or the configuration shows.

    `names` are those of the tensors, which say where it lies; None where they are not the configuration's.
    """
    return wrapped.text_facts(FAMILIES.values(), None if stated is None else _named(stated), facts, names)


def _named(name: str) -> Family:
    if name == unmodelled.NAME:
        return unmodelled.FAMILY
    try:
        return FAMILIES[name]
    except KeyError:
        known = f"{', '.join(FAMILIES)}; or {unmodelled.NAME}, for tensors of no known model"
        raise JobError(f"model_type is {name!r}; known are {known}") from None


__all__ = ["FAMILIES", "Facts", "Family", "Model", "Wanted", "find_family", "text_facts"]
