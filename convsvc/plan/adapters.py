"""LoRA adapters beside the weights they change: found, laid out, and attached to the transfers as a value transform. Pure.

A linear layer's weight W [out, in] has A [r, in] and B [out, r]; the merged weight is W + alpha / r * B A. Which of W's logical axes are
in and out is seen from its strides: an axis inside a stored row is an input. So adapters need no declarations of their own, and are cut
over ranks as their weight is: what is sliced along an output axis slices B, along an input axis A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from convsvc.dialects.base import Checkpoint, Entry, Found
from convsvc.errors import JobError, PlanError
from convsvc.plan.match import Located
from convsvc.plan.records import Operand, Transfer, Transform
from convsvc.plan.transfers import Gathered, distinct_boxes
from convsvc.spec import Lora
from convsvc.tensors.blocks import Block, Laid, LogicalTensor
from convsvc.tensors.cover import missing_part, sort_boxes

# peft's names: X.base_layer.weight for X.weight, X.lora_A.<adapter>.weight beside it.
ADAPTER = re.compile(r"^(?P<module>.*)\.lora_(?P<side>[AB])\.(?:(?P<adapter>\w+)\.)?weight$")
BASE = re.compile(r"\.base_layer\.(?=weight$|bias$)")

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Adapters:
    """The A and B of every adapted module, by (file, stored name of its weight), and alpha / r."""

    pairs: Mapping[Key, tuple[tuple[Key, Found], tuple[Key, Found]]]
    r: int
    scale: float


def split_adapters(checkpoint: Checkpoint, lora: Lora | None) -> tuple[Checkpoint, Adapters | None]:
    """The checkpoint with its weights under their plain names and without adapters; the adapters.

    Raises JobError if there are adapters that the job does not mention, or the other way round.
    """
    plain: dict[Key, Found] = {}
    sides: dict[Key, dict[str, tuple[Key, Found]]] = {}
    for (file, stored), found in checkpoint.found.items():
        match = ADAPTER.match(stored) if ".lora_" in stored else None
        if match is None:
            name = BASE.sub(".", stored) if ".base_layer." in stored else stored
            if name != stored or (file, name) not in plain:
                plain[file, name] = found
            continue
        pair = sides.setdefault((file, f"{match['module']}.weight"), {})
        if match["side"] in pair:
            raise PlanError(f"{file}: {match['module']} has several LoRA adapters", do="merge one of them first")
        pair[match["side"]] = ((file, stored), found)
    if sides and lora is None:
        raise JobError(
            f"{checkpoint.path} holds {len(sides)} LoRA adapters, and the job does not say how to merge them",
            facts=[f"e.g. {next(iter(sides))[1]}"],
            do="state source.lora with r and alpha",
        )
    if lora is None:
        return checkpoint, None
    if not sides:
        raise JobError(f"the job states source.lora, but {lora.path or checkpoint.path} holds no LoRA adapters")
    return replace(checkpoint, found=plain), _complete(sides, lora)


def _complete(sides: Mapping[Key, Mapping[str, tuple[Key, Found]]], lora: Lora) -> Adapters:
    half = [key[1] for key, pair in sides.items() if set(pair) != {"A", "B"}]
    if half:
        raise PlanError(f"{len(half)} LoRA adapters lack A or B, e.g. {half[0]}")
    unused = [module for module in lora.target_modules if not any(key[1].endswith(f".{module}.weight") for key in sides)]
    if unused:
        raise JobError(f"source.lora.target_modules names {', '.join(unused)}; no adapter is for such a module")
    wrong = [key[1] for key, pair in sides.items() if pair["A"][1].tensor.shape[:1] != (lora.r,)]
    if wrong:
        raise JobError(
            f"source.lora.r is {lora.r}; {len(wrong)} adapters have another rank, e.g. {wrong[0]}: {sides_shape(sides, wrong[0])}",
            do="state the r the adapters were trained with",
        )
    return Adapters({key: (pair["A"], pair["B"]) for key, pair in sides.items()}, lora.r, lora.alpha / lora.r)


def sides_shape(sides: Mapping[Key, Mapping[str, tuple[Key, Found]]], stored: str) -> str:
    """A's shape, for an error."""
    return next(str(list(pair["A"][1].tensor.shape)) for key, pair in sides.items() if key[1] == stored)


def locate_adapters(located: Sequence[Located], adapters: Adapters) -> tuple[Located, ...]:
    """Every A and B as a located tensor with blocks of its own logical tensors.

    Raises PlanError for an adapter of a module the model does not have, or with another shape.
    """
    extra: list[Located] = []
    weights = {each.key: each for each in located}
    unknown = [key[1] for key in adapters.pairs if key not in weights]
    if unknown:
        raise PlanError(f"{len(unknown)} LoRA adapters are for modules the model does not have", facts=unknown[:12])
    for key, (side_a, side_b) in adapters.pairs.items():
        weight = weights[key]
        rows, columns = weight.entry.laid.shape
        for (stored, found), shape, blocks in (
            (side_a, (adapters.r, columns), [_block_a(block, columns, adapters.r) for block in weight.entry.laid.blocks]),
            (side_b, (rows, adapters.r), [_block_b(block, columns, adapters.r) for block in weight.entry.laid.blocks]),
        ):
            if found.tensor.shape != shape:
                raise PlanError(f"{stored[0]}: {stored[1]}: expected {list(shape)}, found {list(found.tensor.shape)}")
            laid = Laid(stored[1], shape, tuple(blocks))
            extra.append(Located(Entry(stored[0], laid, weight.entry.unit), stored, found))
    return tuple(extra)


def attach(transfers: Sequence[tuple[str, Transfer]], gathered: Mapping[str, Gathered], scale: float) -> list[tuple[str, Transfer]]:
    """The transfers, those whose weight has adapters with the transform that merges them."""
    return [(unit, _attached(transfer, gathered, scale)) for unit, transfer in transfers]


def _attached(transfer: Transfer, gathered: Mapping[str, Gathered], scale: float) -> Transfer:
    a, b = gathered.get(f"{transfer.name}.lora_A"), gathered.get(f"{transfer.name}.lora_B")
    if a is None or b is None:
        return transfer
    axes = gathered[transfer.name].tensor.axes
    for side in (a, b):
        whole = (tuple(0 for _ in side.tensor.sizes), side.tensor.sizes)
        gap = missing_part(whole, sort_boxes([(view.starts, view.stops) for view in distinct_boxes(side.views())]))
        if gap:
            raise PlanError(f"{side.tensor}: only part of the weight has an adapter; missing {gap}")
    mapping = [[axes.index(axis) if axis in axes else None for axis in side.tensor.axes] for side in (a, b)]
    operands = tuple(Operand(side.tensor.name, side.tensor.sizes, tuple(distinct_boxes(side.views()))) for side in (a, b))
    return replace(transfer, transform=Transform("lora", {"scale": scale, "axes": mapping}, operands))


def _kinds(block: Block, columns: int) -> tuple[list[int], list[int], list[int]]:
    """The block's axes that are fixed, that run over rows (out), that run along a row (in)."""
    # Where a rank holds one slice of the outermost input axis (tp equals the groups), that axis has the stride of a whole row.
    extents = [stop - start for start, stop in zip(block.starts, block.stops, strict=True)]
    fixed = [axis for axis, stride in enumerate(block.strides) if stride == 0]
    inputs = [axis for axis, stride in enumerate(block.strides) if 0 < stride < columns or (stride == columns and extents[axis] == 1)]
    return fixed, [axis for axis in range(len(extents)) if axis not in fixed and axis not in inputs], inputs


def _block_a(block: Block, columns: int, r: int) -> Block:
    fixed, _, inputs = _kinds(block, columns)
    return _side(
        block, "lora_A", fixed, inputs, [block.strides[axis] for axis in inputs], r, rank_stride=columns, rank_first=True, offset=0
    )


def _block_b(block: Block, columns: int, r: int) -> Block:
    fixed, outputs, _ = _kinds(block, columns)
    strides = [block.strides[axis] // columns * r for axis in outputs]
    return _side(block, "lora_B", fixed, outputs, strides, r, rank_stride=1, rank_first=False, offset=block.offset // columns * r)


def _side(
    block: Block,
    name: str,
    fixed: list[int],
    axes: list[int],
    strides: list[int],
    r: int,
    *,
    rank_stride: int,
    rank_first: bool,
    offset: int,
) -> Block:
    tensor = block.tensor
    # Axes a row fixes by a selection, and not by its name, do not distinguish adapters: a slot has none of its own.
    order = [*fixed, *([None] if rank_first else []), *axes, *([] if rank_first else [None])]
    return Block(
        LogicalTensor(
            f"{tensor.name}.{name}",
            tuple("rank" if axis is None else tensor.axes[axis] for axis in order),
            tuple(r if axis is None else tensor.sizes[axis] for axis in order),
        ),
        tuple(0 if axis is None else block.starts[axis] for axis in order),
        tuple(r if axis is None else block.stops[axis] for axis in order),
        offset,
        tuple(rank_stride if axis is None else 0 if axis in fixed else strides[axes.index(axis)] for axis in order),
    )
