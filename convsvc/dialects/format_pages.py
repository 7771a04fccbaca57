"""The page of the formats, made from what a job may say of them: `python -m convsvc.dialects.format_pages docs/formats.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convsvc.formats import FORMATS
from convsvc.spec.formats import formats, sides

HEAD = "| field | what is allowed | default | what it says |\n|---|---|---|---|"
TYPES = {
    "integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true, false", "array": "a list",
    "object": "an object, [below](#objects)",
}  # fmt: skip
ABOUT = """# Formats

What `source.format` and `target.format` may be, and the fields that each has. A field that is not listed is an error. Where the default is
empty, nothing is stated: it is read from the checkpoint, or is the format's own. [A new format](adding-a-format.md) is one folder, and then
it is here, in the commands' choices, in `GET /formats` and in the JSON Schema of a job.
"""
MADE = "<!-- Made by `python -m convsvc.dialects.format_pages docs/formats.md`; change the formats' `job` modules instead. -->"

Schema = Mapping[str, Any]
# Nested objects by their rows: the fields that have them, as "source.architecture of huggingface".
Nested = dict[tuple[str, ...], list[str]]


def page() -> str:
    """The page in Markdown. Pure, but for the formats that are installed."""
    nested: Nested = {}
    lines = [ABOUT]
    for name in sorted(formats()):
        lines += [f"## {name}", ""]
        for side in ("source", "target"):
            kind = sides(side.upper()).get(name)
            lines += [f"It is no {side}.", ""] if kind is None else _side(side, name, kind.model_json_schema(), nested)
    lines += ["## Objects", ""]
    for rows, places in nested.items():
        lines += [f"### {', '.join(places)}", "", HEAD, *rows, ""]
    lines += ["## Files", "", "A file is known by its first bytes, whatever its name:", ""]
    lines += [f"- `{name}`: {each.WHAT}; {each.DO}" for name, each in sorted(FORMATS.items())]
    return "\n".join([*lines, "", MADE, ""])


def _side(side: str, name: str, schema: Schema, nested: Nested) -> list[str]:
    about = " ".join(schema.get("description", "").split())
    for field, inner in _objects(schema):
        nested.setdefault(tuple(_rows(inner, schema)), []).append(f"{side}.{field} of {name}")
    return [f"### As a {side}", "", *([about, ""] if about else []), HEAD, *_rows(schema, schema), ""]


def _rows(schema: Schema, whole: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    for name, field in sorted(schema["properties"].items(), key=lambda item: item[0] not in ("format", "path")):
        default = "required" if name in required else _default(field.get("default"))
        says = " ".join(field.get("description", "").split())
        cells = (f"`{name}`", _allowed(field, whole), default, says)
        yield "|" + "|".join(f" {cell} ".replace("  ", " ").replace("|", "\\|") for cell in cells) + "|"


def _default(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def _allowed(field: Schema, whole: Schema) -> str:
    """What a field may be, in words.

    >>> _allowed({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 2147483647}, {"type": "null"}]}, {})
    'a whole number from 1 on'
    >>> _allowed({"enum": ["a", "b"]}, {})
    '`"a"`, `"b"`'
    """
    if "$ref" in field:
        return _allowed(_resolved(field, whole), whole)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_allowed(each, whole) for each in field["anyOf"] if each.get("type") != "null"))
    if "const" in field or "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    words = TYPES.get(field.get("type", ""), "anything")
    if field.get("type") == "array" and "items" in field:
        return f"a list, of each {_allowed(field['items'], whole)}"
    return words + _bounds(field)


def _bounds(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None and high < 2**31 - 1:
        return f" from {low} to {high}"
    above = field.get("exclusiveMinimum")
    return f" from {low} on" if low is not None else f" above {above}" if above is not None else ""


def _objects(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The fields that are objects with fields of their own, and the objects' schemas."""
    for name, field in schema["properties"].items():
        for each in (field, *field.get("anyOf", ())):
            if "$ref" in each and "properties" in (inner := _resolved(each, schema)):
                yield name, inner


def _resolved(field: Schema, whole: Schema) -> Schema:
    found: Schema = whole["$defs"][field["$ref"].rpartition("/")[2]]
    return found


def main(path: str) -> None:
    """Write the page."""
    Path(path).write_text(page())


if __name__ == "__main__":
    main(sys.argv[1])
