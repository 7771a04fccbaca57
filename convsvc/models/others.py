"""What is stored beside a text decoder's own tensors, carried along under its names. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from convsvc.notes import Note
from convsvc.tensors.blocks import Laid

SHOWN = 4


def names_pattern(prefixes: Iterable[str], whole: Iterable[str]) -> re.Pattern[str]:
    """Names that begin with one of the prefixes, a number for each placeholder, or are one of `whole`.

    >>> bool(names_pattern(["layers.{layer}."], ["norm.weight"]).match("layers.12.mlp.weight"))
    True
    """
    starts = [re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(prefix)) for prefix in dict.fromkeys(prefixes)]
    return re.compile("|".join([*starts, *(re.escape(name) + "$" for name in dict.fromkeys(whole))]))


def find_others(shapes: Mapping[str, tuple[int, ...]], own: re.Pattern[str]) -> Iterator[tuple[Laid, None]]:
    """The tensors that are not the decoder's own, each as it is."""
    return ((Laid(name, shape, ()), None) for name, shape in shapes.items() if not own.match(name))


def find_named(shapes: Mapping[str, tuple[int, ...]], patterns: Iterable[str]) -> Iterator[tuple[Laid, None]]:
    """The tensors whose names have one of these patterns, each as it is."""
    pattern = re.compile("|".join(patterns))
    return ((Laid(name, shape, ()), None) for name, shape in sorted(shapes.items()) if pattern.search(name))


def other_notes(names: Sequence[str], layer_prefix: str) -> tuple[Note, ...]:
    """A word about what is carried, and one about what stands among the decoder's own names: that is no other module's."""
    if not names:
        return ()
    body = layer_prefix.partition("layers.{")[0]
    inside = [name for name in names if body not in ("", "model.") and name.startswith(body)]
    notes = (Note("carried", f"{len(names)} tensor(s) of other modules ({_summary(names)}) are kept as they are, for the way back"),)
    if not inside:
        return notes
    text = f"{len(inside)} of them stand among the text decoder's own ({_summary(inside)}): what they add to it, training does not compute"
    return (*notes, Note("advice", text))


def _summary(names: Iterable[str]) -> str:
    counted = Counter(".".join(re.split(r"\.\d+\.", name)[0].split(".")[:3]) + ".*" for name in names)
    shown = [f"{count} {name}" for name, count in counted.most_common(SHOWN)]
    return ", ".join(shown) + (" and others" if len(counted) > SHOWN else "")
