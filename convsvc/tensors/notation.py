"""The notation of the declarations: axis names, storage orders, and small expressions over sizes. Pure.

A storage order is written like `"(group slot head_dim) hidden"`: the stored tensor has two axes; the first runs over group, slot
and head_dim merged, the last fastest. An axis of which a row takes a single index is not written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache

Order = tuple[tuple[str, ...], ...]


class NotationError(ValueError):
    """A declaration is not well formed. A programmer's mistake, never a user's."""


@cache
def parse_axes(text: str) -> tuple[str, ...]:
    """The axis names of a logical tensor.

    >>> parse_axes("group slot head_dim hidden")
    ('group', 'slot', 'head_dim', 'hidden')
    """
    axes = tuple(text.split())
    if len(set(axes)) != len(axes) or not all(axis.isidentifier() for axis in axes):
        raise NotationError(f"axes must be different identifiers: {text!r}")
    return axes


@cache
def parse_order(text: str) -> Order:
    """The merged axes of a stored tensor, outermost first.

    >>> parse_order("(group slot head_dim) hidden")
    (('group', 'slot', 'head_dim'), ('hidden',))
    >>> parse_order("()")
    ((),)
    """
    groups: list[tuple[str, ...]] = []
    merged: list[str] | None = None
    for token in re.findall(r"[()]|[^()\s]+", text):
        if token == "(" and merged is None:
            merged = []
        elif token == ")" and merged is not None:
            groups.append(tuple(merged))
            merged = None
        elif token.isidentifier():
            if merged is None:
                groups.append((token,))
            else:
                merged.append(token)
        else:
            raise NotationError(f"not a storage order: {text!r}")
    flat = [axis for group in groups for axis in group]
    if merged is not None or len(set(flat)) != len(flat):
        raise NotationError(f"not a storage order: {text!r}")
    return tuple(groups)


def evaluate(expression: str, sizes: Mapping[str, int]) -> int:
    """The value of a sum, difference or product of sizes and numbers.

    >>> evaluate("q_per_group + 1", {"q_per_group": 4})
    5

    Raises NotationError for anything else, or for a size nobody gave.
    """
    try:
        return _value(_parse(expression), sizes)
    except (SyntaxError, KeyError) as error:
        raise NotationError(f"cannot evaluate {expression!r}: {error}") from None


def interval(text: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """(start, stop) of `"start:stop"` or `"index"`.

    >>> interval("0:q_per_group", {"q_per_group": 4})
    (0, 4)
    >>> interval("q_per_group", {"q_per_group": 4})
    (4, 5)
    """
    if ":" in text:
        start, stop = text.split(":")
        return evaluate(start, sizes), evaluate(stop, sizes)
    index = evaluate(text, sizes)
    return index, index + 1


@cache
def _parse(expression: str) -> ast.expr:
    return ast.parse(expression.strip(), mode="eval").body


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, sizes), _value(node.right, sizes)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
    raise NotationError("only sums, differences and products of sizes")
