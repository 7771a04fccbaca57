"""What is wrong with a value, in our words instead of pydantic's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "an object",
    "model": "an object",
    "tuple": "a list",
    "list": "a list",
    "datetime": "a time, as 2024-05-31T12:00:00Z",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_LENGTHS = {
    "string_too_short": ("at least", "min_length", "character"),
    "string_too_long": ("at most", "max_length", "character"),
    "too_short": ("at least", "min_length", "entr"),
    "too_long": ("at most", "max_length", "entr"),
}


def in_words(item: Mapping[str, Any]) -> str | None:
    """What must be, of one of pydantic's errors (`ValidationError.errors`); None for those whose own words are ours already.

    >>> in_words({"type": "int_parsing", "ctx": {}}), in_words({"type": "greater_than_equal", "ctx": {"ge": 1}})
    ('must be a whole number', 'must be at least 1')
    """
    kind, context = str(item["type"]), item.get("ctx") or {}
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"must be {word} {context[name]}"
    if kind in _LENGTHS:
        word, name, what = _LENGTHS[kind]
        count = context[name]
        plural = {"character": "characters", "entr": "entries"} if count != 1 else {"character": "character", "entr": "entry"}
        return f"must have {word} {count} {plural[what]}"
    if kind in ("literal_error", "enum"):
        return f"must be one of {str(context['expected']).replace(' or ', ', ')}"
    if kind == "string_pattern_mismatch":
        return "has a character, or a form, that it may not have"
    if kind == "missing":
        return "is required"
    first = kind.partition("_")[0]
    return f"must be {_TYPES[first]}" if first in _TYPES and kind.endswith(("_type", "_parsing", "_from_float", "_size")) else None
