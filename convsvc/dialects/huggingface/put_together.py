"""A model whose weights lie apart: all of them in a file of their own, or its text decoder's in the directory of a language model. Pure.

MindSpeed-MM puts a multimodal model together so before it is trained: a tower and a projector of one, the language model of another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.huggingface.names import by_family_names
from convsvc.dialects.joined import shifted
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.towers import TIES
from convsvc.notes import Note

BODY, SHOWN = "model.", 12


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job says beside the directory: whose weights are the text decoder's; whether a stored head is the model's own."""

    text: Checkpoint | None = None
    own_head: bool = False


def put_together(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """The checkpoint by its family's names, with the parts that the job states. Raises SourceError for another model's text decoder."""
    named = by_family_names(checkpoint, family)
    parts = checkpoint.settings
    if not isinstance(parts, Parts):
        return named
    if parts.text is not None:
        named = with_text(named, parts.text, family)
    heads = [row.stored for row in family.output if ("", row.stored) in named.found]
    return with_own_head(named, family, heads[0]) if parts.own_head and heads else named


def with_own_head(checkpoint: Checkpoint, family: Family, head: str) -> Checkpoint:
    """The checkpoint of a model that is not tied, whatever its configuration says, as it has a head: the configuration follows."""
    facts = checkpoint.facts
    if not facts.tied(family.tied_by_default):
        return checkpoint
    values = {name: value for name, value in facts.values.items() if name not in TIES} | {TIES[0]: False}
    text = f"{head} is kept as the model's own, though {facts.origin} ties it to the embedding: what is loaded by that would not use it"
    return replace(checkpoint, facts=Facts(values, facts.origin), notes=(*checkpoint.notes, Note("advice", text)))


def with_text(checkpoint: Checkpoint, text: Checkpoint, family: Family) -> Checkpoint:
    """The checkpoint with the text decoder's weights of another one in the place of its own.

    Raises SourceError where that one's tensors are not, name by name, what the text decoder has here.
    """
    names = [name for _, name in checkpoint.found]
    own = _texts(names, family)
    placed = {name: _place(name, body_of(names_of(text), own), own) for name in names_of(text)}
    lacking, left_over = sorted(own - set(placed.values())), [name for name, there in placed.items() if there not in own]
    heads = {row.stored for row in (*family.output, *family.tied_output)}
    left_over = [name for name in left_over if placed[name] not in heads]
    if lacking or left_over:
        raise SourceError(
            f"source.text_decoder_dir: {text.path} does not hold the text decoder of {checkpoint.path}",
            facts=[*(f"lacks {name}" for name in lacking[:SHOWN]), *(f"has {name}, of which there is none" for name in left_over[:SHOWN])],
            do="give the language model that it is built on",
        )
    moved = shifted({("", placed[name]): each for (_, name), each in text.found.items()}, len(checkpoint.files))
    kept: dict[tuple[str, str], Found] = {key: each for key, each in checkpoint.found.items() if key[1] not in own}
    note = Note("changed", f"{len(moved)} tensor(s) of the text decoder are those of {text.path}")
    return replace(checkpoint, files=(*checkpoint.files, *text.files), found=kept | moved, notes=(*checkpoint.notes, note))


def names_of(checkpoint: Checkpoint) -> list[str]:
    return [name for _, name in checkpoint.found]


def _texts(names: Iterable[str], family: Family) -> set[str]:
    """The names that are the text decoder's: of its layers and its ends; what lies beside its layers is a tower's."""
    layers = re.compile(re.escape(family.layer_prefix).replace(r"\{layer\}", r"\d+"))
    rows = (*family.embedding, *family.final_norm, *family.output, *family.tied_output)
    ends = {name for row in rows for name in (row.stored, *row.also)}
    return {name for name in names if name in ends or layers.match(name)}


def body_of(names: Iterable[str], own: Iterable[str]) -> str:
    """What stands here in the place of a language model's `model.`.

    >>> body_of(["model.norm.weight"], ["llm.model.norm.weight", "llm.lm_head.weight"])
    'llm.model.'
    """
    rests = {name.removeprefix(BODY) for name in names if name.startswith(BODY)}
    counts: Counter[str] = Counter()
    for name in own:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in rests:
                counts[".".join(parts[:at]) + "." if at else ""] += 1
    return max(sorted(counts), key=lambda body: counts[body], default=BODY)


def _place(name: str, body: str, own: Mapping[str, object] | set[str]) -> str:
    """What a language model's tensor is called here."""
    if name.startswith(BODY):
        return body + name.removeprefix(BODY)
    around = body.removesuffix(BODY) if body.endswith(BODY) else ""
    return next((each for each in (around + name, name) if each in own), around + name)
