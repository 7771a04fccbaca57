"""A text decoder inside a model of more modules that nobody has declared: which family it is, and what stands before its names. Pure.

Published wrappers of one text family differ in nothing but their prefixes (`model.language_model.`, `language_model.model.`, `llm.model.`,
`vlm.lang_model.model.`, `thinker.model.`, or none) and in where their configuration keeps the text's numbers. The prefixes are found from
the names, the family from the configuration; everything that is not the text's is carried along as it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convsvc.errors import JobError
from convsvc.models.around import BODY, around
from convsvc.models.class_defaults import completed
from convsvc.models.detect import find_text
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.towers import TIES

# Where facts and saved args keep how a text decoder lies in the model that it was taken from.
MARK = "text_decoder_of"
# What a nested configuration may leave to the one around it.
OUTER = (*TIES, "torch_dtype", "dtype", "quantization_config", "transformers_version")


@dataclass(frozen=True, slots=True)
class Place:
    """A text decoder: its family, what stands in place of `model.` and before its other names, the steps to its configuration.

    `kind` is the model_type that the configuration says where it is nested: sizes it is silent about are those of that class. `copied` is
    whether a tied head is stored, too: then the way back writes it again.
    """

    family: str
    body: str
    head: str
    inside: tuple[str, ...]
    kind: str = ""
    copied: bool = False

    def words(self) -> dict[str, Any]:
        """As facts and saved args keep it."""
        said = {"family": self.family, "body": self.body, "head": self.head, "inside": list(self.inside), "kind": self.kind}
        return said | ({"copied": True} if self.copied else {})


def text_facts(families: Iterable[Family], stated: Family | None, facts: Facts, names: Collection[str] | None) -> Facts:
    """What the configuration says of the text decoder, marked with where it lies; without `names` it lies nowhere, and is not marked.

    `stated` is the family that a job names, else the configuration shows it. Raises JobError where it shows none, or several, or where no
    tensors of such a decoder are there.
    """
    found, family = find_text(tuple(families), facts, stated)
    found_at = ("", "") if names is None else find_place(names, family)
    if found_at is None:
        raise JobError(
            f"{facts.origin}: no tensors of a text decoder of the family {family.name} are there, under whatever prefix",
            do="state the model_type that the text decoder is",
        )
    inner = str(found.facts.get("model_type", default="")) if found.steps else ""
    body, head = found_at
    copied = any(head + row.stored in (names or ()) for row in family.tied_output)
    place = Place(family.name, body, head, found.steps, inner, copied)
    own = {
        name: value
        for name, value in completed(found.facts, inner).values.items()
        if not isinstance(value, Mapping) or name not in found.others
    }
    outer = {name: value for name in OUTER if name not in own and (value := facts.get(name)) is not None}
    kind = {"model_type": next(iter(family.model_types), None), "architectures": list(family.architectures[:1])}
    mark = {} if names is None else {MARK: place.words()}
    return Facts({**outer, **own, **kind, **mark}, facts.origin)


def placed(families: Mapping[str, Family], facts: Facts) -> Family | None:
    """The family that marked facts speak of, in its place; None where they are not marked. Raises JobError for a mark that is none."""
    mark = facts.get(MARK)
    if mark is None:
        return None
    try:
        family, body, head, kind = (str(mark[name]) for name in ("family", "body", "head", "kind"))
        place = Place(family, body, head, tuple(map(str, mark["inside"])), kind, mark.get("copied") is True)
        text = families[place.family]
    except (KeyError, TypeError, AttributeError):
        raise JobError(f"{facts.origin}: {MARK} does not say where a text decoder lies", do="convert the checkpoint again") from None
    return within(text, place)


def within(text: Family, place: Place) -> Family:
    """The text family under the names that it has in its place; whatever has other names is carried along."""
    inside = tuple((step,) for step in place.inside)
    family = around(text, towers=(), body=place.body, head=place.head, inside=inside, name=text.name, title=text.title)
    heads = tuple(replace(row, written=True) for row in family.tied_output) if place.copied else family.tied_output
    return replace(family, others=True, silent=place.kind, tied_output=heads)


def find_place(names: Collection[str], family: Family) -> tuple[str, str] | None:
    """(body, head): what stands in place of `model.` and before the names outside of it; None where no layers are there.

    >>> from convsvc.families import FAMILIES
    >>> find_place(["llm.model.embed_tokens.weight", "llm.model.layers.0.input_layernorm.weight"], FAMILIES["qwen3"])
    ('llm.model.', 'llm.')
    """
    names = set(names)
    bodies = {body for row in family.embedding for stored in (row.stored, *row.also) for name in names for body in _bodies(name, stored)}
    counts = {body: _count(names, family, body) for body in bodies}
    body = max(sorted(counts), key=lambda each: counts[each], default=None)
    if body is None or not counts[body]:
        return None
    return (body, _head(names, family, body)) if family.layer_prefix.startswith(BODY) else (BODY, body)


def _bodies(name: str, stored: str) -> Iterable[str]:
    """What stands in place of `model.` if `name` is the tensor that the family calls `stored`."""
    rest = stored.removeprefix(BODY)
    if name == rest or name.endswith("." + rest):
        yield name.removesuffix(rest)


def _count(names: Iterable[str], family: Family, body: str) -> int:
    prefix = re.escape(body + family.layer_prefix.removeprefix(BODY)).replace(re.escape("{layer}"), r"\d+")
    layers = re.compile(prefix)
    return sum(layers.match(name) is not None for name in names)


def _head(names: set[str], family: Family, body: str) -> str:
    """What stands before the output layer; of several, what is nearest to the body; of none, as with others of the body."""
    outside = [row.stored for row in (*family.output, *family.tied_output) if not row.stored.startswith(BODY)]
    heads = {name.removesuffix(each) for each in outside for name in names if name == each or name.endswith("." + each)}
    near = [head for head in heads if body.startswith(head)]
    if near:
        return max(near, key=len)
    return body.removesuffix(BODY) if body.split(".")[-2:-1] == ["model"] and body != BODY else ""
