"""Strategy files read once more, by other means: proto2 by hand, slices by numpy. Nothing of the package is used.

Fields as node_strategy.proto has them. A rank's slice: the tensor is reshaped so that every mesh axis that cuts it is an axis of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

Layout = dict[str, Any]


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value - (1 << 64) if value >> 63 else value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2
            size = varint()
            yield tag >> 3, data[at : at + size]
            at += size


def dims(data: bytes) -> list[int]:
    return [value for number, value in fields(data) if number == 1]


def read_by_hand(data: bytes) -> tuple[int, dict[str, Layout]]:
    """The stage, and every parameter's mesh, map and optimizer shards."""
    stages, layouts = [], {}
    for number, item in fields(data):
        if number == 1:
            continue
        named = dict(fields(item))
        if number == 2:
            stages.append(dict(fields(named[2]))[1])
        else:
            inner = list(fields(named[2]))
            maps = [dims(value) for at, value in inner if at == 2]
            layouts[named[1].decode()] = {
                "mesh": next(dims(value) for at, value in inner if at == 1),
                "map": [[axis] for axis in maps[0]] if len(maps) == 1 else [axes for axes in maps if axes],
                "step": dict(inner)[6],
                "size": dict(inner)[7],
            }
    assert len(set(stages)) == 1
    return stages[0], layouts


def slice_by_hand(layout: Layout, rank: int, whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a rank of the stage has of a tensor."""
    mesh = layout["mesh"]
    place = np.unravel_index(rank, mesh)
    used = [len(mesh) - 1 - axis for axes in layout["map"] for axis in axes if axis != -1]
    piece = whole
    for dimension, axes in enumerate(layout["map"]):
        cut = [len(mesh) - 1 - axis for axis in axes if axis != -1]
        size = piece.shape[dimension]
        rows = np.arange(size).reshape(*[mesh[axis] for axis in cut], -1)[tuple(place[axis] for axis in cut)]
        piece = piece.take(rows.reshape(-1), axis=dimension)
    if layout["step"] and layout["size"] not in (0, 1):
        free = [axis for axis in range(len(mesh)) if axis not in used]
        shards = prod(mesh[axis] for axis in free) if layout["size"] == -1 else layout["size"]
        replica = np.ravel_multi_index([place[axis] for axis in free], [mesh[axis] for axis in free])
        piece = np.split(piece, shards)[int(replica) % shards]
    return piece
