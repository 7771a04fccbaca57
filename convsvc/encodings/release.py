"""How a release was quantised, without its codes: what the modules' tensors were called, their dtypes and shapes, the words. Pure.

Beside codes and scales a module may have numbers of activations (`input_scale`, `k_scale`): they belong to the release, and to no weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from convsvc.encodings.base import Claim, Form, Incomplete, Missaid, Part, Unfit, Unread, Written
from convsvc.encodings.known import claims, said_under
from convsvc.tensors.dtypes import SIZES

VERSION = 1
# What says how stored bytes are values.
QUANTISATION = ("quantization_config", "compression_config", "expert_dtype")


class Leaf(NamedTuple):
    """A module's tensor: how its name ends, as which part it was stored, and whether it is kept, as everything but codes is."""

    leaf: str
    dtype: str
    shape: tuple[int, ...]
    kept: bool


class BadRelease(Exception):
    """Words about a release that cannot be meant. Says which."""


@dataclass(frozen=True, slots=True)
class Release:
    """`kinds` are tensors of a module that belong together, by their leaves; `modules` says of which module there is one of which kind.

    `words` are what the configuration said of quantisation, by where: "" at its top, or in "text_config".
    """

    words: Mapping[str, Mapping[str, Any]]
    kinds: tuple[tuple[Leaf, ...], ...]
    modules: tuple[tuple[str, int], ...]

    def as_json(self) -> dict[str, Any]:
        """What `load_release` reads."""
        return {"version": VERSION, "words": self.words, "kinds": self.kinds, "modules": self.modules}

    def runs(self) -> list[list[tuple[str, int]]]:
        """For each kind the (dtype, elements) of what is kept of it."""
        return [[(leaf.dtype, prod(leaf.shape)) for leaf in kind if leaf.kept] for kind in self.kinds]

    def kept(self) -> Iterator[tuple[str, Leaf]]:
        """Every kept tensor with its whole name, in the order in which they lie."""
        leaves = [[leaf for leaf in kind if leaf.kept] for kind in self.kinds]
        return ((module + leaf.leaf, leaf) for module, kind in self.modules for leaf in leaves[kind])

    def weights(self) -> dict[str, Written]:
        """How each weight was stored, by its name. Raises BadRelease for leaves that are none of an encoding's."""
        claimed = [_claimed(kind, _Look(self.words)) for kind in self.kinds]
        return {
            module + claim.name: Written(claim.form, tuple([module + each for each in claim.pieces]), parts)
            for module, kind in self.modules
            for claim, parts in claimed[kind]
        }

    def beside(self) -> Iterator[tuple[str, Leaf]]:
        """What is kept and belongs to no weight, with its whole name."""
        taken = [{piece for claim, _ in _claimed(kind, _Look(self.words)) for piece in claim.pieces} for kind in self.kinds]
        leaves = [[leaf for leaf in kind if leaf.kept and leaf.leaf not in held] for kind, held in zip(self.kinds, taken, strict=True)]
        return ((module + leaf.leaf, leaf) for module, kind in self.modules for leaf in leaves[kind])


def quantisation_words(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a configuration says of quantisation, by where: "" is its top, the other its part about the text."""
    text = config.get("text_config")
    places: dict[str, Mapping[str, Any]] = {"": config, "text_config": text if isinstance(text, Mapping) else {}}
    said = {where: {name: words[name] for name in QUANTISATION if words.get(name) is not None} for where, words in places.items()}
    return {where: words for where, words in said.items() if words}


@dataclass(slots=True)
class _Look:
    """What encodings see of a module by its leaves alone."""

    words: Mapping[str, Any]
    parts: dict[str, Part] = field(default_factory=dict)

    def part(self, name: str) -> Part | None:
        return self.parts.get(name)

    def said(self, name: str) -> tuple[Any, ...]:
        return said_under(list(self.words.values()), name)


def _claimed(kind: Sequence[Leaf], look: _Look) -> list[tuple[Claim, tuple[Part, ...]]]:
    look.parts = {each.leaf: Part(each.dtype, each.shape) for each in kind}
    try:
        found = [claim for leaf in look.parts for claim in claims(leaf, look)]
    except (Unfit, Incomplete, Unread, Missaid) as fault:
        raise BadRelease(str(fault)) from None
    return [(claim, tuple([look.parts[piece] for piece in claim.pieces])) for claim in found]


def fitted(form: Form, shape: tuple[int, ...]) -> Form | None:
    """The form of a weight that has this shape for everybody else; None where it cannot have it. The last columns may be padding."""
    if shape == form.seen_shape:
        return form
    stored = (*shape[:-2], shape[-1], shape[-2]) if form.turned and len(shape) > 1 else shape
    if stored[:-1] != form.shape[:-1] or not stored or not 0 <= form.columns - stored[-1] <= form.loose:
        return None
    return Form(form.kind, stored, form.grids, form.shared_by, form.group, form.turned, 0, form.params)


def load_release(raw: Any) -> Release:
    """The release that was written with `as_json`. Raises BadRelease for what is none."""
    if not isinstance(raw, Mapping) or raw.get("version") != VERSION:
        raise BadRelease(f"expected version {VERSION}")
    words, kinds, modules = raw.get("words"), raw.get("kinds"), raw.get("modules")
    if not isinstance(words, Mapping) or not all(isinstance(each, Mapping) for each in words.values()):
        raise BadRelease("words must be objects")
    if not isinstance(kinds, list) or not isinstance(modules, list):
        raise BadRelease("kinds and modules must be lists")
    made = tuple([tuple([_leaf(each) for each in _listed(kind)]) for kind in kinds])
    named = tuple([_module(each, len(made)) for each in modules])
    release = Release(words, made, named)
    names = [module + leaf.leaf for module, kind in named for leaf in made[kind]]
    if len(set(names)) != len(names):
        raise BadRelease("a tensor is named twice")
    return release


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadRelease("a kind must be a list of leaves")
    return value


def _leaf(raw: Any) -> Leaf:
    if not isinstance(raw, list) or len(raw) != 4:
        raise BadRelease("a leaf must be its name, dtype, shape, and whether it is kept")
    leaf, dtype, shape, kept = raw
    if not isinstance(leaf, str) or not isinstance(dtype, str) or dtype not in SIZES or not isinstance(kept, bool):
        raise BadRelease(f"{leaf!r:.60} is no leaf of a known dtype")
    if not isinstance(shape, list) or not all(type(each) is int and 0 <= each < 1 << 48 for each in shape):
        raise BadRelease(f"{leaf!r:.60} has no shape")
    return Leaf(leaf, dtype, tuple(shape), kept)


def _module(raw: Any, kinds: int) -> tuple[str, int]:
    if not isinstance(raw, list) or len(raw) != 2 or not isinstance(raw[0], str) or type(raw[1]) is not int or not 0 <= raw[1] < kinds:
        raise BadRelease(f"{raw!r:.60} is no module of a kind")
    return raw[0], raw[1]
