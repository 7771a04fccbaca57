"""Megatron's `pipeline_model_parallel_layout`: what each virtual stage holds, in letters. Pure.

`E` is the embedding, `t` a layer, `m` an MTP layer, `L` the output; `|` ends a stage; `x*3` and `(tt|)*3` repeat, commas mean nothing.
Stages come chunk by chunk: the `a * pp + b`-th is chunk a of pipeline stage b. After megatron-core 0.16.1,
core/transformer/pipeline_parallel_layer_layout.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Megatron's LayerType: by name, and by number (core/transformer/enums.py) as a pickled member says it.
LETTERS = {"embedding": "E", "loss": "L", "decoder": "t", "mtp": "m"}
BY_NUMBER = {1: "E", 2: "L", 4: "t", 5: "m"}
# A hundred times what the largest models have; a few letters can ask for billions.
MOST_LETTERS = 100_000
_REPEATS = (re.compile(r"\(([^)]+)\)\*([0-9]+)"), re.compile(r"(.)\*([0-9]+)"))

Pattern = tuple[str, ...]


def parse_pattern(stated: str | Sequence[Any]) -> Pattern:
    """The letters of each virtual stage, from the text or from lists of names (or letters, or numbers) of what is in it.

    >>> parse_pattern("Et*2|(tt|)*2,m|L")
    ('Ett', 'tt', 'tt', 'm', 'L')
    >>> parse_pattern([["embedding", "decoder"], ["decoder", "loss"]])
    ('Et', 'tL')

    Raises ValueError, in words, for what is no such pattern.
    """
    if isinstance(stated, str):
        return _checked(tuple(_unrolled(stated.replace(",", "")).split("|")))
    if not isinstance(stated, list | tuple) or not all(isinstance(stage, list | tuple) for stage in stated):
        raise ValueError("is neither a text nor a list of lists")
    if sum(len(stage) for stage in stated) > MOST_LETTERS:
        raise ValueError(f"has over {MOST_LETTERS} layers")
    return _checked(tuple("".join(map(_letter, stage)) for stage in stated))


def _unrolled(text: str) -> str:
    for pattern in _REPEATS:
        found = list(pattern.finditer(text[: MOST_LETTERS + 1]))
        size = len(text) + sum(len(match[1]) * (int(match[2]) if len(match[2]) < 7 else MOST_LETTERS) for match in found)
        if size > MOST_LETTERS:
            raise ValueError(f"has over {MOST_LETTERS} letters, repeats included")
        text = pattern.sub(lambda match: match[1] * int(match[2]), text)
    return text


def _letter(name: Any) -> str:
    if type(name) is int:
        return BY_NUMBER.get(name, "?")
    return LETTERS.get(name.strip().lower(), name.strip()) if isinstance(name, str) else "?"


def _checked(stages: Pattern) -> Pattern:
    unknown = sorted({letter for stage in stages for letter in stage} - set("EtmL"))
    if unknown:
        raise ValueError(f"has {', '.join(map(repr, unknown[:5]))}; known are E (embedding), t (layer), m (MTP layer), L (output)")
    order = "".join(stages)
    if not re.fullmatch(r"Et*m*L", order):
        raise ValueError("must hold E first, then t, then m, and L last, E and L once")
    return stages
