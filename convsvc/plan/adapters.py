"""LoRA adapters beside the weights they change: laid out, and attached to the transfers as a value transform. Pure.

A linear layer's weight W [out, in] has A [r, in] and B [out, r]; the merged weight is W + scale * B A. Which of W's logical axes are
in and out is seen from its strides: an axis inside a stored row is an input. So adapters need no declarations of their own, and are cut
over ranks as their weight is: what is sliced along an output axis slices B, along an input axis A.

Where a logical tensor is made of several stored ones (q, k and v of a Hugging Face checkpoint), each of them has an A of its own, or none:
its transfer is cut into one for all that have adapters of one form, and one for the rest, which is copied as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from convsvc.dialects.adaptable import no_linear_layer
from convsvc.errors import PlanError
from convsvc.plan.adapter_names import SHOWN, Adapters, Key, Pair
from convsvc.plan.match import Inventory, Located
from convsvc.plan.records import Operand, Place, Transfer, Transform, View
from convsvc.plan.transfers import Gathered, clip_views, split_copies
from convsvc.tensors.blocks import Block, Laid, LogicalTensor
from convsvc.tensors.runs import cut_laid


class Merging(NamedTuple):
    """The logical tensors that are a weight's A and B, and the factor of their product."""

    a: str
    b: str
    scale: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Every A and B as a stored tensor, and by the place of a weight's block what is merged into it."""

    sides: Inventory
    merging: Mapping[Place, Merging]


class _Form(NamedTuple):
    """What A and B have alike, to be one logical tensor: which of the weight's axes they have, their rank, their factor."""

    fixed: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    r: int
    scale: float


def locate_adapters(weights: Inventory, adapters: Adapters, same_as: Mapping[str, str]) -> Placed:
    """Every A and B with blocks of its own logical tensors. `same_as`: the model's logical tensors that are copies of others.

    Raises PlanError for an adapter of a module that the model does not have or that is no linear layer of its own, for one with another
    shape, and for one that only some of the ranks have.
    """
    numbers = _numbers(weights, adapters)
    _check_linear(weights, numbers, same_as)
    _check_everywhere(weights, numbers)
    kinds: list[Laid] = []
    sides: list[Located] = []
    merging: dict[Place, Merging] = {}
    forms: dict[str, list[_Form]] = {}
    for number, pair in numbers.items():
        weight = weights.kinds[weights.entries[number].kind]
        rows, columns = weight.shape
        laid: tuple[list[Block], list[Block]] = [], []
        for block in weight.blocks:
            form = _form(block, columns, pair)
            known = forms.setdefault(block.tensor.name, [])
            if form not in known:
                known.append(form)
            at = known.index(form)
            a, b = (f"{block.tensor.name}.lora_{side}" + (f".{at}" if at else "") for side in "AB")
            laid[0].append(_block_a(block, a, form, columns))
            laid[1].append(_block_b(block, b, form, columns))
            if block.volume:
                merging[Place(number, block.offset)] = Merging(a, b, pair.scale)
        for (stored, found), shape, blocks in zip((pair.a, pair.b), ((pair.r, columns), (rows, pair.r)), laid, strict=True):
            if found.tensor.shape != shape:
                where = f"{stored[0]}: {stored[1]}" if stored[0] else stored[1]
                raise PlanError(f"{where}: expected {list(shape)}, found {list(found.tensor.shape)}")
            side, unit = Laid(stored[1], shape, tuple(blocks)), weights.entries[number].unit
            for box, piece in adapters.pieces.get(stored[1], ((None, found),)):
                sides.append(Located(len(kinds), unit, stored, piece))
                kinds.append(side if box is None else cut_laid(side, *box))
    return Placed(Inventory(tuple(kinds), tuple(sides)), merging)


def attach(
    transfers: Sequence[tuple[str, Transfer]], gathered: Mapping[str, Gathered], merging: Mapping[Place, Merging]
) -> list[tuple[str, Transfer]]:
    """The transfers, what has adapters with the transform that merges them. Raises PlanError if an adapter is left over."""
    attached = [(unit, part) for unit, transfer in transfers for part in _parts(transfer, gathered, merging)]
    used = {part.transform.operands[0].name for _, part in attached if part.transform is not None}
    left = sorted({merged.a for merged in merging.values()} - used)
    if left:
        raise PlanError(f"{len(left)} LoRA adapters belong to nothing that is converted", facts=left[:SHOWN])
    return attached


def _parts(transfer: Transfer, gathered: Mapping[str, Gathered], merging: Mapping[Place, Merging]) -> Iterator[Transfer]:
    groups: dict[Merging | None, list[View]] = {}
    for view in transfer.reads:
        groups.setdefault(merging.get(view.places[0]), []).append(view)
    fills, padding = transfer.fills, transfer.padding
    for merged, reads in groups.items():
        transform = None if merged is None else _transform(merged, gathered, transfer.name)
        writes = transfer.writes if len(groups) == 1 else tuple(clip_views(transfer.writes, reads))
        checks = transfer.checks if len(groups) == 1 else tuple(clip_views(transfer.checks, reads))
        if writes or fills or padding:
            part = replace(transfer, reads=tuple(reads), writes=writes, fills=fills, transform=transform, checks=checks, padding=padding)
            yield part
        fills, padding = (), ()
    if not groups:
        yield transfer


def _transform(merged: Merging, gathered: Mapping[str, Gathered], name: str) -> Transform:
    axes = gathered[name].tensor.axes
    sides = gathered[merged.a], gathered[merged.b]
    mapping = [[axes.index(axis) if axis in axes else None for axis in side.tensor.axes] for side in sides]
    split = [split_copies(side.views()) for side in sides]
    operands = tuple(
        Operand(side.tensor.name, side.tensor.sizes, tuple(reads), tuple(checks))
        for side, (reads, checks) in zip(sides, split, strict=True)
    )
    return Transform("lora", {"scale": merged.scale, "axes": mapping}, operands)


def _numbers(located: Inventory, adapters: Adapters) -> dict[int, Pair]:
    """The pairs by the number of their weight, whichever of its names they go by."""
    weights: dict[Key, int] = {}
    for number, each in enumerate(located.entries):
        weights[each.key] = number
        for name in (located.kinds[each.kind].name, *located.kinds[each.kind].also):
            weights.setdefault((each.key[0], name), number)
    unknown = [key[1] for key in adapters.pairs if key not in weights]
    if unknown:
        head = any(name.rpartition("/")[2] in ("lm_head.weight", "output_layer.weight") for name in unknown)
        raise PlanError(
            f"{len(unknown)} LoRA adapters are for modules the model does not have",
            facts=unknown[:SHOWN],
            do="its head is tied to the embedding, and has no weight to merge into: untie it first" if head else None,
        )
    return {weights[key]: pair for key, pair in adapters.pairs.items()}


def _check_linear(weights: Inventory, numbers: Mapping[int, Pair], same_as: Mapping[str, str]) -> None:
    copies = {name for pair in same_as.items() for name in pair}
    faults: list[str] = []
    for number in numbers:
        laid, name = weights.kinds[weights.entries[number].kind], weights.entries[number].key[1]
        held = {block.tensor.name for block in laid.blocks}
        why = no_linear_layer(laid)
        if why is not None:
            faults.append(f"{name}{why}")
        elif held & copies:
            faults.append(f"{name}: shares its values with {', '.join(sorted(_partners(held, same_as)))}, which has no such adapter")
    if faults:
        raise PlanError(
            f"{len(faults)} LoRA adapters are for what is no linear layer of its own",
            facts=faults[:SHOWN],
            do="merge them with the tool that trained them, and convert the result",
        )


def _partners(names: set[str], same_as: Mapping[str, str]) -> set[str]:
    return {same_as[name] for name in names if name in same_as} | {copy for copy, original in same_as.items() if original in names}


def _check_everywhere(weights: Inventory, numbers: Mapping[int, Pair]) -> None:
    """A weight that is cut over ranks, or copied to them, has its adapter on all of them or on none."""
    entries, kinds = weights.entries, weights.kinds
    adapted = {(block.tensor.name, entries[number].key[1]) for number in numbers for block in kinds[entries[number].kind].blocks}
    bare = [
        f"{each.key[0]}: {each.key[1]}"
        for number, each in enumerate(entries)
        if number not in numbers and any((block.tensor.name, each.key[1]) in adapted for block in kinds[each.kind].blocks)
    ]
    if bare:
        raise PlanError(
            f"only part of the weight has an adapter: {len(bare)} stored tensors have none, though others of the same weight have",
            facts=bare[:SHOWN],
            do="fetch all ranks of the adapters' checkpoint",
        )


def _form(block: Block, columns: int, pair: Pair) -> _Form:
    """Which of the block's axes are fixed, run over rows (out), run along a row (in)."""
    # Where a rank holds one slice of the outermost input axis (tp equals the groups), that axis has the stride of a whole row.
    extents = [stop - start for start, stop in zip(block.starts, block.stops, strict=True)]
    fixed = tuple(axis for axis, stride in enumerate(block.strides) if stride == 0)
    inputs = tuple(axis for axis, stride in enumerate(block.strides) if 0 < stride < columns or (stride == columns and extents[axis] == 1))
    outputs = tuple(axis for axis in range(len(extents)) if axis not in fixed and axis not in inputs)
    return _Form(fixed, outputs, inputs, pair.r, pair.scale)


def _block_a(block: Block, name: str, form: _Form, columns: int) -> Block:
    order = (*form.fixed, None, *form.inputs)
    strides = {axis: block.strides[axis] for axis in form.inputs}
    return _side(block, name, order, form.r, strides, columns, 0)


def _block_b(block: Block, name: str, form: _Form, columns: int) -> Block:
    order = (*form.fixed, *form.outputs, None)
    strides = {axis: block.strides[axis] // columns * form.r for axis in form.outputs}
    return _side(block, name, order, form.r, strides, 1, block.offset // columns * form.r)


def _side(
    block: Block, name: str, order: tuple[int | None, ...], r: int, strides: Mapping[int, int], rank_stride: int, offset: int
) -> Block:
    """A side's block, whose axes are those of `order`; None is the rank. An axis without a stride is fixed."""
    tensor = block.tensor
    return Block(
        LogicalTensor(
            name,
            tuple("rank" if axis is None else tensor.axes[axis] for axis in order),
            tuple(r if axis is None else tensor.sizes[axis] for axis in order),
        ),
        tuple(0 if axis is None else block.starts[axis] for axis in order),
        tuple(r if axis is None else block.stops[axis] for axis in order),
        offset,
        tuple(rank_stride if axis is None else strides.get(axis, 0) for axis in order),
    )
