"""Which element type a target tensor has: the job's, or that of the source's tensors that its elements come from. Pure.

It is asked of the overlaps, not of names: where one expert of a layer is stored in another type than the rest, only what is made of it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from convsvc.errors import PlanError
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.plan.records import PlannedTensor, Transfer, View
from convsvc.plan.transfers import Gathered
from convsvc.spec import Options
from convsvc.tensors.blocks import Block, Laid
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import Sorted, sort_boxes
from convsvc.tensors.dtypes import FLOATS, is_lossless

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}


def target_dtypes(
    kinds: Sequence[Laid],
    gathered: Mapping[str, Gathered],
    sources: Sequence[PlannedTensor],
    model: Model,
    options: Options,
) -> tuple[str, ...]:
    """The dtype of each kind of target tensor: the job's, or that of the source elements it is made of, which must agree.

    What model code keeps in a wider dtype (`Model.keeps`) is not cast to the job's, unless the job insists. Raises PlanError for tensors
    that would mix dtypes.
    """
    wanted = DTYPES[options.dtype] if options.dtype else None
    held = _Held(gathered, sources, model.same_as)
    faults: list[str] = []
    chosen: list[str] = []
    for laid in kinds:
        have: dict[str, str] = {}
        for block in laid.blocks:
            keep = None if options.cast_all else model.keeps.get(block.tensor.name)
            for dtype, name in held.of(block).items():
                have[_cast(dtype, wanted, keep, options.widen_kept)] = name
        if len(have) > 1:
            faults.append(f"{laid.name}: made of " + " and ".join(f"{name} ({dtype})" for dtype, name in sorted(have.items())))
        chosen.append(next(iter(have), "F32"))
    if faults:
        raise PlanError(f"{len(faults)} target tensors would mix dtypes", facts=faults[:12], do="state options.dtype to cast them to one")
    return tuple(chosen)


def kept_notes(kinds: Sequence[Laid], dtypes: Sequence[str], model: Model, options: Options) -> list[Note]:
    """A word about what is not cast, though the job casts."""
    if options.dtype is None or not model.keeps:
        return []
    wanted = DTYPES[options.dtype]
    others = [laid for laid, dtype in zip(kinds, dtypes, strict=True) if dtype != wanted]
    kept = sorted({block.tensor.name for laid in others for block in laid.blocks if block.tensor.name in model.keeps})
    if not kept:
        return []
    text = f"{len(kept)} logical tensor(s), e.g. {kept[0]}, are not cast to {options.dtype}: model code keeps them in a wider dtype"
    return [Note("advice", f"{text} (options.cast_all casts them too)")]


def _cast(dtype: str, wanted: str | None, keep: str | None, widen: bool) -> str:
    """The dtype that something stored in `dtype` has in the target. What is kept wider is never made narrower, nor rounded on the way."""
    if wanted is None or dtype not in FLOATS:
        return dtype
    return wanted if keep is None or (dtype == wanted and not widen) else keep


@dataclass(frozen=True, slots=True)
class _Boxes:
    """What is read of a logical tensor: {dtype: a stored tensor that has it}; by box only where there are several."""

    dtypes: Mapping[str, str]
    tensors: Mapping[Box, PlannedTensor]
    index: Sorted | None


class _Held:
    """The dtypes of what is read, by logical tensor."""

    def __init__(self, gathered: Mapping[str, Gathered], sources: Sequence[PlannedTensor], same_as: Mapping[str, str]) -> None:
        self._gathered, self._sources, self._same_as = gathered, sources, same_as
        self._boxes: dict[str, _Boxes] = {}

    def of(self, block: Block) -> Mapping[str, str]:
        """{dtype: a stored tensor that has it} of the elements in the block; a copy that is not stored has its original's."""
        name = block.tensor.name
        boxes = self._boxes.get(name)
        if boxes is None:
            boxes = self._boxes[name] = self._look_up(name if name in self._gathered else self._same_as.get(name, name))
        if boxes.index is None:
            return boxes.dtypes
        meeting = (boxes.tensors[box] for box, _ in boxes.index.meeting(block.box))
        return {tensor.value_dtype: tensor.name for tensor in meeting}

    def _look_up(self, name: str) -> _Boxes:
        each = self._gathered.get(name)
        held = [self._sources[places[0].tensor] for places in each.places.values()] if each else []
        dtypes = {tensor.value_dtype: tensor.name for tensor in held}
        if each is None or len(dtypes) == 1:
            return _Boxes(dtypes, {}, None)
        tensors: dict[Box, PlannedTensor] = {}
        for (starts, stops, _), tensor in zip(each.places, held, strict=True):
            tensors.setdefault(Box(starts, stops), tensor)
        dtypes = {tensor.value_dtype: tensor.name for tensor in tensors.values()}
        return _Boxes(dtypes, tensors, sort_boxes(list(tensors)) if len(dtypes) > 1 else None)


def lossy_casts(transfer: Transfer, sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor]) -> Iterator[tuple[str, str]]:
    """(source dtype, target dtype) of what a transfer casts so that bits are lost, wherever that is."""
    read, written = _by_dtype(transfer.reads, sources), _by_dtype(transfer.writes, targets)
    for source, views in read.items():
        boxes: Sorted | None = None
        for target, wanted in written.items():
            if is_lossless(source, target):
                continue
            boxes = boxes or sort_boxes([view.box for view in views])
            if any(next(boxes.meeting(view.box), None) for view in wanted):
                yield source, target


def _by_dtype(views: Sequence[View], tensors: Sequence[PlannedTensor]) -> dict[str, list[View]]:
    found: dict[str, list[View]] = {}
    for view in views:
        for dtype in {_kept_dtype(tensors[place.tensor]) for place in view.places}:
            found.setdefault(dtype, []).append(view)
    return found


def _kept_dtype(tensor: PlannedTensor) -> str:
    """What is kept of a tensor: its values, where it is encoded with scales that go along; else what is stored."""
    return tensor.value_dtype if tensor.coded is not None and tensor.coded.own else tensor.dtype
