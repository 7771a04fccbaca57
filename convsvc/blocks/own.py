"""Tensors that a family alone has, each a logical tensor of its own: no framework has a place for them, Hugging Face's formats do."""

from __future__ import annotations

from convsvc.tensors.declare import Row, logical, row


def own(stored: str, axes: str, *, name: str | None = None, keep: str | None = None, also: tuple[str, ...] = ()) -> Row:
    """A row whose tensor is a logical one by itself, named as it is stored; an axis that stands in braces in `stored` is looped over.

    >>> own("mlp.experts.{expert}.w1.weight", "expert ffn hidden").parts[0].order
    (('ffn',), ('hidden',))
    """
    whole = logical(name or "own." + stored.replace("{", "").replace("}", ""), axes)
    return row(stored, whole, " ".join(axis for axis in axes.split() if "{" + axis + "}" not in stored), keep=keep, also=also)
