"""Two checkpoints side by side: which logical tensors both hold, where each lies on either side, and what only one of them has. Pure.

Neither need have been written by us, nor lie in the same format or cut alike: both are read as sources, into the same logical tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod

from convsvc.errors import PlanError
from convsvc.plan.planner import describe_model
from convsvc.plan.quantised import plan_sources
from convsvc.plan.records import PlannedFile, PlannedTensor, View
from convsvc.plan.source import OpenSource
from convsvc.plan.transfers import Gathered, gather, stand_in
from convsvc.tensors.blocks import LogicalTensor
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import first_overlap
from convsvc.tensors.dtypes import FLOATS


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its files and stored tensors, and where its logical tensors lie; how many of other modules are left aside."""

    source: OpenSource
    files: tuple[PlannedFile, ...]
    tensors: tuple[PlannedTensor, ...]
    gathered: Mapping[str, Gathered]
    aside: int = 0

    def stored(self, name: str) -> list[str]:
        """The stored tensors that hold a logical one, as "file: name" or, where the name alone tells, as that."""
        numbers = dict.fromkeys(place.tensor for view in self.gathered[name].views() for place in view.places)
        return list(dict.fromkeys(self.tensors[number].name for number in numbers))


@dataclass(frozen=True, slots=True)
class Pair:
    """A logical tensor that both hold. `dtype` is what its elements are compared as: what both can be cast to without loss.

    `a` and `b`: for each time that a side holds the whole tensor, the views it then consists of; all but the first are copies.
    """

    tensor: LogicalTensor
    dtype: str
    dtypes: tuple[str, str]
    a: tuple[tuple[View, ...], ...]
    b: tuple[tuple[View, ...], ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What can be compared, and in words what cannot: what only one side holds, and what is of another shape or kind."""

    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]
    other_model: tuple[str, ...]
    advice: tuple[str, ...]


def lay_side(source: OpenSource, *, decoder_alone: bool = False) -> Side:
    """A source that was opened, as one of the two: all of it, or what is no tensor carried along beside its text decoder."""
    files = tuple(PlannedFile(file.path, file.size_bytes, file.format, file.mtime_ns) for file in source.checkpoint.files)
    gathered, model = gather(source.inventory), source.model
    aside = {each.name for each in model.carried if model.mtp_layer_of(each.name) is None} & set(gathered) if decoder_alone else set()
    kept = {name: each for name, each in gathered.items() if name not in aside}
    return Side(source, files, plan_sources(source.inventory.entries), kept, len(aside))


def pair_sides(a: Side, b: Side) -> Pairs:
    """The logical tensors of both. Raises PlanError where a side holds boxes that overlap, or only a part of a tensor."""
    same_as = {**a.source.model.same_as, **b.source.model.same_as}
    of_a, of_b = stand_in(dict(a.gathered), dict(b.gathered), same_as), stand_in(dict(b.gathered), dict(a.gathered), same_as)
    pairs, other_shape = [], []
    for name in of_a:
        if name not in of_b:
            continue
        one, other = of_a[name].tensor, of_b[name].tensor
        if (one.axes, one.sizes) != (other.axes, other.sizes):
            other_shape.append(f"{name}: {_sizes(one)} and {_sizes(other)}")
            continue
        dtypes = [_dtypes(side, held[name]) for side, held in ((a, of_a), (b, of_b))]
        common = _common_dtype(dtypes[0] | dtypes[1])
        if common is None:
            other_shape.append(f"{name}: {_joined(dtypes[0])} and {_joined(dtypes[1])}, whose values cannot be compared")
        else:
            held = tuple(_copies(each[name]) for each in (of_a, of_b))
            pairs.append(Pair(one, common, (_joined(dtypes[0]), _joined(dtypes[1])), *held))
    only_a, only_b = ([name for name in mine if name not in other] for mine, other in ((of_a, of_b), (of_b, of_a)))
    other_model, advice = _models(a, b)
    return Pairs(tuple(pairs), tuple(only_a), tuple(only_b), tuple(other_shape), tuple(other_model), tuple(advice))


def _models(a: Side, b: Side) -> tuple[list[str], list[str]]:
    """In what the models differ; and in what only their configurations do, which need not be another model."""
    one, other = describe_model(a.source.model), describe_model(b.source.model)
    sizes = {name: (one["sizes"].get(name), other["sizes"].get(name)) for name in {**one["sizes"], **other["sizes"]}}
    found = [f"{name}: {one[name]} and {other[name]}" for name in ("family", "layers", "experts") if one[name] != other[name]]
    found += [f"{name}: {mine} and {its}" for name, (mine, its) in sizes.items() if mine != its and None not in (mine, its)]
    tied = [each["tied_embeddings"] for each in (one, other)]
    advice = [f"tied embeddings: {_said(tied[0])} and {_said(tied[1])}"] if tied[0] != tied[1] else []
    return found, advice


def _said(flag: bool) -> str:
    return "yes" if flag else "no"


def _copies(held: Gathered) -> tuple[tuple[View, ...], ...]:
    """The views of the tensor, once for each time that it is held. A box that is held less often is repeated: nothing is left out."""
    boxes: dict[Box, list[View]] = {}
    for starts, stops, strides, places in held.views():
        boxes.setdefault(Box(starts, stops), []).extend(View(starts, stops, strides, (place,)) for place in places)
    twice = first_overlap(list(boxes))
    volume = sum(views[0].volume for views in boxes.values())
    if twice or volume != prod(held.tensor.sizes):
        what = f"{twice[0]} and {twice[1]} overlap" if twice else f"{volume} of {prod(held.tensor.sizes)} elements are there"
        raise PlanError(f"{held.tensor} is not held whole: {what}")
    times = max(map(len, boxes.values()), default=0)
    return tuple(tuple(views[min(time, len(views) - 1)] for views in boxes.values()) for time in range(times))


def _dtypes(side: Side, held: Gathered) -> set[str]:
    places = chain.from_iterable(view.places for view in held.views())
    return {side.tensors[number].value_dtype for number in {place.tensor for place in places}}


def _common_dtype(dtypes: Iterable[str]) -> str | None:
    """What all of them can be cast to without loss; None for what is not all floating-point."""
    found = set(dtypes)
    if len(found) == 1:
        return next(iter(found))
    if not found <= FLOATS:
        return None
    return "F64" if "F64" in found else "F32"


def _joined(dtypes: Iterable[str]) -> str:
    return "/".join(sorted(dtypes))


def _sizes(tensor: LogicalTensor) -> str:
    return "[" + ", ".join(f"{axis} {size}" for axis, size in zip(tensor.axes, tensor.sizes, strict=True)) + "]"
