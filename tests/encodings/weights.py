"""Encoded weights through the real planner and the real steps, from files in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.execute.check.overflows import Overflows
from convsvc.execute.pipeline import Tiles
from convsvc.execute.steps.budgets import Budget
from convsvc.execute.steps.compiling import compile_steps
from convsvc.execute.steps.records import Tensors
from convsvc.formats.base import StoredTensor
from convsvc.models.facts import Facts
from convsvc.plan.match import Located
from convsvc.plan.quantised import join_pieces, plan_sources
from convsvc.plan.records import Place, PlannedTensor, Transfer, View
from convsvc.tensors.dtypes import size_of
from tests.execute.steps.test_steps import Memory, strides_in

Ranges = tuple[tuple[int, int], ...]
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TAGS = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


class Stored:
    """The bytes of a safetensors file, and where its tensors lie in it."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        self.data = data
        self.tensors = {
            name: StoredTensor(name, each["dtype"], tuple(each["shape"]), 8 + size + each["data_offsets"][0])
            for name, each in header.items()
            if name != "__metadata__"
        }

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Stored:
        """Tensors by name, one after the other in one file."""
        data = b"".join(each.contiguous().view(torch.uint8).numpy().tobytes() if each.numel() else b"" for each in tensors.values())
        made, at = {}, 0
        for name, each in tensors.items():
            made[name] = {"dtype": TAGS[each.dtype], "shape": list(each.shape), "data_offsets": [at, at + each.nbytes]}
            at += each.nbytes
        header = json.dumps(made).encode()
        return cls(len(header).to_bytes(8, "little") + header + data)

    def checkpoint(self, config: Mapping[str, Any] | None = None, dtype: str = "BF16") -> Checkpoint:
        """What the planner makes of it."""
        facts = Facts({"quantization_config": config} if config else {}, "config.json")
        return join_pieces(Checkpoint("memory", (), {("", name): Found(0, each) for name, each in self.tensors.items()}, facts), dtype)


def decoded(
    stored: Stored,
    name: str,
    dtype: str,
    config: Mapping[str, Any] | None = None,
    box: Ranges | None = None,
    order: tuple[int, ...] | None = None,
    budget: int = 1 << 22,
    overflows: Overflows | None = None,
    shape: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """A box of the weight as a target of this dtype would hold it, with its axes in `order`.

    `shape` is what the model says that the weight has; `overflows` is told what became infinite.
    """
    found = stored.checkpoint(config, "BF16" if dtype == "BF16" else "F32").found["", name]
    found = found.shaped(shape or found.tensor.shape)
    shape, encoded = found.tensor.shape, found.encoded
    assert encoded is not None
    source = plan_sources([Located(0, "", ("", name), found)])
    axes = tuple(range(len(shape)))
    strides = strides_in(shape, (*axes[:-2], axes[-1], axes[-2]) if encoded.form.turned else axes)
    box, order = box or tuple((0, size) for size in shape), order or axes
    starts, stops = tuple(start for start, _ in box), tuple(stop for _, stop in box)
    size = tuple(stop - start for start, stop in box)
    made = np.zeros(int(np.prod(size)) * size_of(dtype), np.uint8)
    target = [PlannedTensor(0, "w", dtype, size, 0, made.size)]
    read = View((0,) * len(shape), shape, strides, (Place(0, 0),))
    transfer = Transfer("w", shape, order, (read,), (View(starts, stops, strides_in(size, order), (Place(0, 0),)),))
    tiles = Tiles(Memory([stored.data]), Budget(budget))
    for write, data in tiles.produce(compile_steps(transfer, Tensors(source, target), Budget(budget))):
        for place, run in write.runs(write.places[0], data):
            made[place.data_offset : place.data_offset + len(run)] = np.frombuffer(run, np.uint8)
    if overflows is not None:
        overflows.counts.update(tiles.overflows.counts)
    return torch.from_numpy(made).view(TORCH[dtype]).reshape(*(size[axis] for axis in order))
