"""Arithmetic on shapes and strides, in elements. Pure."""

from __future__ import annotations


def shift(to: tuple[int, ...], start: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How far `to` is from `start`, both coordinates, in memory with these strides."""
    return sum((a - b) * stride for a, b, stride in zip(to, start, strides, strict=True))


def merge_axes(
    shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The same copy with the fewest axes, the target's outermost first: axes that run on in both become one.

    >>> merge_axes((2, 3, 4), (12, 4, 1), (100, 4, 1))
    ((2, 12), (12, 1), (100, 1))
    >>> merge_axes((1, 1), (7, 9), (3, 1))
    ((), (), ())
    """
    axes = sorted(((n, s, t) for n, s, t in zip(shape, source, target, strict=True) if n > 1), key=lambda axis: -axis[2])
    merged: list[tuple[int, int, int]] = []
    for n, s, t in axes:
        if merged and merged[-1][1] == n * s and merged[-1][2] == n * t:
            merged[-1] = (merged[-1][0] * n, s, t)
        else:
            merged.append((n, s, t))
    return tuple(a[0] for a in merged), tuple(a[1] for a in merged), tuple(a[2] for a in merged)


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides.

    >>> dense_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)
