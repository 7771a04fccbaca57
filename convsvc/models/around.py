"""A family of several modules, made of its text decoder's: the same rows under other prefixes, with towers beside. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convsvc.models.family import Family
from convsvc.models.mtp_layers import Mtp
from convsvc.models.scope import Rows
from convsvc.models.towers import Step, Tower

BODY = "model."
TEXT_CONFIG = (("text_config",),)


def around(
    text: Family,
    *,
    towers: tuple[Tower, ...],
    body: str = BODY,
    head: str = "",
    inside: tuple[Step, ...] = (("text_config",),),
    **changes: Any,
) -> Family:
    """The family of models that have `text` as their decoder, with `towers` beside it.

    What the text family calls `model.` is called `body` there, and all else (the output layer) has `head` in front. `inside` are the
    steps to the text's part of the configuration. What tells a text model from others (its model_types, classes, tests) is not taken
    over; `changes` are the new family's own.
    """

    def moved(name: str) -> str:
        return body + name.removeprefix(BODY) if name.startswith(BODY) else head + name

    own: dict[str, Any] = {
        "embedding": _moved(text.embedding, moved),
        "final_norm": _moved(text.final_norm, moved),
        "output": _moved(text.output, moved),
        "tied_output": _moved(text.tied_output, moved),
        "carried": _moved(text.carried, moved),
        "mtp": None if text.mtp is None else _mtp(text.mtp, moved),
        "layer_prefix": moved(text.layer_prefix),
        "model_types": (),
        "architectures": (),
        "distinguish": None,
        "shown_by": None,
        "spelling": (),
        "text": text.name,
        "towers": towers,
        "inside": inside,
    }
    return replace(text, **(own | changes))


def _moved(rows: Rows, moved: Callable[[str], str]) -> Rows:
    return tuple(replace(row, stored=moved(row.stored), also=tuple(map(moved, row.also))) for row in rows)


def _mtp(mtp: Mtp, moved: Callable[[str], str]) -> Mtp:
    block = None if mtp.block_prefix is None else moved(mtp.block_prefix)
    return replace(mtp, prefix=moved(mtp.prefix), block_prefix=block)
