"""The plan: numbers that say which bytes go where. Pure data, JSON both ways, no model, no torch.

A plan's work is a list of *transfers*, one a logical tensor. A transfer knows the tensor's extents, the source views that hold
it and the target views that want it; a view is a box in the tensor's own coordinates plus, for each stored tensor it lies in,
an offset and one stride an axis, in elements. What overlaps what follows from the boxes alone, so a transfer can be cut along
any axis into smaller transfers, down to tiles that fit a buffer.

What a large plan has a million of is a named tuple: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from operator import mul, sub
from typing import Any, NamedTuple

from convsvc.encodings.base import Form
from convsvc.tensors.boxes import Box


class Place(NamedTuple):
    """Where a view's first element lies: a tensor (index into the plan's source or target tensors), an offset in elements."""

    tensor: int
    offset: int


class View(NamedTuple):
    """A box of a logical tensor as it lies in memory order of one or more stored tensors.

    `starts`/`stops`: the box, half open, one number an axis. `strides`: elements between neighbours along each axis, the same in
    all `places`. Several places hold (source) or get (target) the same elements: what is read has one place, the further ones are
    compared with it (`Transfer.checks`); a target's are all written.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    strides: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def volume(self) -> int:
        return prod(map(sub, self.stops, self.starts))

    @property
    def box(self) -> Box:
        return Box(self.starts, self.stops)

    def restricted(self, box: Box) -> View | None:
        """The part of the view inside a box of the logical tensor; None where they do not meet. Strides stay, offsets move."""
        common = self.box.intersect(box)
        if common is None:
            return None
        starts, stops = common
        if starts == self.starts and stops == self.stops:
            return self
        shift = sum(map(mul, map(sub, starts, self.starts), self.strides))
        places = tuple([Place(tensor, offset + shift) for tensor, offset in self.places]) if shift else self.places
        return View(starts, stops, self.strides, places)


@dataclass(frozen=True, slots=True)
class Operand:
    """A further logical tensor that a transform needs beside the one it changes, e.g. LoRA's A and B; `checks` as a transfer's."""

    name: str
    sizes: tuple[int, ...]
    views: tuple[View, ...]
    checks: tuple[View, ...] = ()


@dataclass(frozen=True, slots=True)
class Transform:
    """A named change of values on the way. `kind` is one of `execute.transforms`; parameters are numbers and strings.

    kind "lora": `operands` are A and B; `axes` gives for each of them which axis of the transfer's tensor each of its axes is
    (None for the rank axis); `scale` is alpha / r.
    """

    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Fill:
    """A run of elements of a stored tensor that belongs to no logical one (vocabulary padding). In a target it is zeros."""

    tensor: int
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One logical tensor on its way from where it is to where it is wanted.

    `order` lists the axes from the target's outermost to its innermost: cutting along it leaves every target region contiguous.
    `reads` are disjoint and cover all of `writes` (proved by the planner). `checks` are further copies of what is read: they are compared
    with it, as far as it is written; `remedy` is what to do where one with another name differs, `unchecked` says which copies nobody
    looks at. `padding` are the runs of the source's tensors that are
    dropped because they hold nothing.
    """

    name: str
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    fills: tuple[Fill, ...] = ()
    transform: Transform | None = None
    checks: tuple[View, ...] = ()
    padding: tuple[Fill, ...] = ()
    remedy: str = ""
    unchecked: str = ""


class Coded(NamedTuple):
    """How a source tensor's bytes are values: its form, and the numbers of the source's tensors that are its other pieces.

    The values are `dtype`: BF16, or F32 where the job wants more than BF16 holds. `own`: for each of the pieces where, of the other side's
    tensors, it lies as it was published: what is written so is encoded with these.
    """

    form: Form
    pieces: tuple[int, ...]
    dtype: str = "BF16"
    own: tuple[Place, ...] = ()


class PlannedTensor(NamedTuple):
    """A stored tensor of the source or the target: which file, its name there, dtype, shape, its first byte in the file.

    One that is `coded` is quantised: these are its codes' file, dtype, first byte and size. The shape of a source's is that of its values,
    as they lie.
    """

    file: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    file_offset: int
    size_bytes: int
    coded: Coded | None = None

    @property
    def value_dtype(self) -> str:
        """What its elements are once they are read: as its code says where they are dequantised, else as stored."""
        return self.dtype if self.coded is None else self.coded.dtype


def scaled_with(tensor: PlannedTensor) -> str | None:
    """Of a tensor that is encoded with a new scale for all of it: what names all that have the same one; None for others.

    Parts that serving fuses (queries, keys and values; gate and up) are parts of one logical tensor, and of one module (ModelOpt,
    export/quant_utils.py preprocess_linear_fusion).
    """
    if tensor.coded is None or tensor.coded.own or all(grid.rows for grid in tensor.coded.form.grids):
        return None
    return tensor.name.rsplit(".", 2)[0]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file: the source's absolute path, or the target's path relative to the target directory. `format` is a `formats/` name.

    For a source file, `size_bytes` and `mtime_ns` are what planning saw; execution refuses a file that differs.
    """

    path: str
    size_bytes: int
    format: str
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """Transfers that are done together by one worker. Independent of all other tasks; may run twice with the same effect."""

    id: int
    name: str
    transfers: tuple[Transfer, ...]
    bytes_in: int
    bytes_out: int
