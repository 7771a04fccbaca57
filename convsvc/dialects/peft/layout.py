"""Where the A and B of an adapted weight lie in a PEFT adapter. Pure.

The rows of a Hugging Face model say where each part of an adapted weight is kept; its A and B lie there by the same strides. Where
Megatron fuses what Hugging Face keeps apart (linear_qkv, linear_fc1), each module gets a copy of the one A and its own rows of B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from convsvc.errors import PlanError
from convsvc.tensors.blocks import Block, Laid, LogicalTensor

# peft's names (peft/utils/save_and_load.py, get_peft_model_state_dict); transformers' model lies in base_model.model.
PREFIX, A, B = "base_model.model.", "lora_A", "lora_B"


def target_modules(linear: Sequence[str], adapted: set[str]) -> tuple[str, ...]:
    """PEFT's target_modules for the adapted of the linear modules: last names, or full ones where only some of a name are adapted.

    >>> target_modules(["0.q_proj", "1.q_proj", "0.up_proj", "1.up_proj"], {"0.q_proj", "1.q_proj", "0.up_proj"})
    ('0.up_proj', 'q_proj')
    """
    partly = {name.rpartition(".")[2] for name in linear if name not in adapted}
    return tuple(sorted({name if name.rpartition(".")[2] in partly else name.rpartition(".")[2] for name in adapted}))


def module_of(laid: Laid) -> str:
    return laid.name.removesuffix(".weight")


def lay_sides(laid: Laid, sides: Mapping[str, LogicalTensor], r: int) -> Iterator[Laid]:
    blocks = laid.blocks
    names = tuple(dict.fromkeys(block.tensor.name for block in blocks))
    if not laid.written or not any(f"{name}.{A}" in sides for name in names):
        return
    if len(laid.shape) != 2 or len({sides.get(f"{name}.{A}") for name in names}) > 1:
        raise PlanError(
            f"{laid.name} {list(laid.shape)} cannot have one LoRA adapter",
            facts=[f"it is made of {', '.join(names)}, which have adapters of their own or none"],
            do="merge them instead: choose a target of full weights",
        )
    rows, columns = laid.shape
    module = PREFIX + module_of(laid)
    for side, shape in ((A, (r, columns)), (B, (rows, r))):
        # Parts that lie one after the other along the rows share A: then these blocks are the same.
        made = dict.fromkeys(_side(block, sides[f"{block.tensor.name}.{side}"], columns, r, side == B, laid) for block in blocks)
        yield Laid(f"{module}.{side}.weight", shape, tuple(made))


def _side(block: Block, side: LogicalTensor, columns: int, r: int, per_row: bool, laid: Laid) -> Block:
    """Where the part of A (`per_row`: of B) that belongs to a block of the weight lies in the module's A (B)."""
    axes = tuple(zip(block.tensor.axes, block.starts, block.stops, block.strides, strict=True))
    # An axis that runs over rows belongs to B, one along a row to A; one that the name fixes (the expert) to either.
    wrong = [
        axis
        for axis, start, stop, stride in axes
        if stride and stop - start > 1 and (axis in side.axes) != ((stride >= columns) is per_row)
    ]
    if wrong:
        raise PlanError(f"{laid.name}: {', '.join(wrong)} is an input on one side and an output on the other; its adapter does not fit")
    where = {axis: (start, stop, stride // columns * r if per_row else stride) for axis, start, stop, stride in axes}
    where["rank"] = (0, r, 1 if per_row else columns)
    starts, stops, strides = zip(*(where[axis] for axis in side.axes), strict=True)
    return Block(side, starts, stops, block.offset // columns * r if per_row else 0, strides)
