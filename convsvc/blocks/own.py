"""What a family alone has: tensors that no framework has a place for (Hugging Face's formats do), and names of its own for known ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from convsvc.tensors.declare import Part, Row, Selection, logical, row


def own(stored: str, axes: str, *, name: str | None = None, keep: str | None = None, also: tuple[str, ...] = (), over: str = "") -> Row:
    """A row whose tensor is a logical one by itself, named as it is stored; an axis that stands in braces in `stored` is looped over.

    `over`: what goes into the linear layer that publishers quantise with the others, if it is one's weight.

    >>> own("mlp.experts.{expert}.w1.weight", "expert ffn hidden").parts[0].order
    (('ffn',), ('hidden',))
    """
    whole = logical(name or "own." + stored.replace("{", "").replace("}", ""), axes, over=over)
    return row(stored, whole, " ".join(axis for axis in axes.split() if "{" + axis + "}" not in stored), keep=keep, also=also)


def called(rows: Iterable[Row], **names: str) -> tuple[Row, ...]:
    """The rows under other names, part of a name by part: what stands between two dots is exchanged for what `names` says of it.

    >>> from convsvc.blocks.glu import GLU
    >>> [each.stored for each in called(GLU, mlp="feed_forward", gate_proj="w1")]
    ['feed_forward.w1.weight', 'feed_forward.up_proj.weight', 'feed_forward.down_proj.weight']
    """
    return tuple(replace(each, stored=".".join(names.get(part, part) for part in each.stored.split("."))) for each in rows)


def apart(rows: Iterable[Row], prefix: str) -> tuple[Row, ...]:
    """The rows of tensors that are called apart from those that frameworks have a place for: their layers compute something else."""
    return tuple(replace(each, parts=tuple(replace(piece, selection=_renamed(piece, prefix)) for piece in each.parts)) for each in rows)


def _renamed(piece: Part, prefix: str) -> Selection:
    return replace(piece.selection, logical=piece.logical.renamed(prefix))
