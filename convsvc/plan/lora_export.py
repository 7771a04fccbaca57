"""LoRA adapters for themselves: a PEFT adapter directory instead of merged weights. Pure.

The target's rows say where Hugging Face keeps each part of an adapted weight; its A and B lie there by the same strides. Where
Megatron fuses what Hugging Face keeps apart (linear_qkv, linear_fc1), each module gets a copy of the one A and its own rows of B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convsvc.dialects.base import Dialect, Entry, Output
from convsvc.dialects.huggingface.adapter_files import Adapter, adapter_output
from convsvc.errors import JobError, PlanError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.plan.adapter_names import Adapters
from convsvc.plan.adapters import locate_adapters
from convsvc.plan.match import Located
from convsvc.roots import Roots
from convsvc.spec import Job, Options
from convsvc.tensors.blocks import Block, Laid, LogicalTensor

# peft's names (peft/utils/save_and_load.py, get_peft_model_state_dict); transformers' model lies in base_model.model.
PREFIX, A, B = "base_model.model.", "lora_A", "lora_B"


@dataclass(frozen=True, slots=True)
class AdapterWriter:
    """Hugging Face's side of a plan for adapters alone: the write side of a `Dialect`.

    `weights` is the dialect whose layout the weights would have; `sides` are the logical A and B that the source has, by the
    weight's name and `.lora_A` or `.lora_B`.
    """

    weights: Dialect
    sides: Mapping[str, LogicalTensor]
    adapters: Adapters

    def write_settings(self, target: Any, model: Model) -> None:
        """There is nothing to decide: names follow from the model."""

    def layout(self, model: Model, settings: None) -> tuple[Entry, ...]:
        """An A and a B for every module whose weight has adapters. Raises PlanError where the source's do not fit a module."""
        return tuple(pair for entry in self.weights.layout(model, settings) for pair in _entries(entry, self.sides, self.adapters.r))

    def output(
        self,
        target: Any,
        model: Model,
        settings: None,
        facts: Facts,
        entries: tuple[Entry, ...],
        dtypes: tuple[str, ...],
        options: Options,
        roots: Roots,
    ) -> tuple[tuple[Entry, ...], Output]:
        """adapter_model.safetensors and adapter_config.json."""
        linear = [_module(entry) for entry in self.weights.layout(model, settings) if len(entry.laid.shape) == 2]
        adapted = {entry.laid.name.removeprefix(PREFIX).partition(f".{A}.")[0] for entry in entries if f".{A}." in entry.laid.name}
        adapter = Adapter(self.adapters.r, self.adapters.alpha, self.adapters.use_rslora, target_modules(linear, adapted))
        return adapter_output(entries, dtypes, adapter, target.config_dir)


def export_adapters(
    weights: Dialect, job: Job, located: Sequence[Located], adapters: Adapters | None, same_as: Mapping[str, str]
) -> tuple[AdapterWriter, tuple[Located, ...]]:
    """The writer of an adapter directory, and the located A and B, which take the weights' place.

    Raises JobError if the source has no adapters, or has them as PEFT has them already.
    """
    if adapters is None:
        raise JobError("target.adapter_only is set, but no adapters are read", do="state source.lora with r and alpha")
    if job.source.format == "huggingface":
        raise JobError(
            "target.adapter_only writes a PEFT adapter, and the source's adapters are one already",
            do=f"copy {(job.source.lora and job.source.lora.path) or job.source.path}, or leave out target.adapter_only to merge it",
        )
    if not adapters.uniform:
        raise JobError("the adapters have several ranks, which is not exported", do="leave out target.adapter_only to merge them")
    sides = locate_adapters(located, adapters, same_as).located
    shared = _shared(sides)
    kept = tuple(replace(each, entry=_only(each.entry, {tensor.name for tensor in shared.values()})) for each in sides)
    return AdapterWriter(weights, shared, adapters), kept


def _shared(sides: Sequence[Located]) -> dict[str, LogicalTensor]:
    """The logical A and B by name; weights that the source stores in one tensor have one A, which is the first one's."""
    tensors: dict[str, LogicalTensor] = {}
    origins: dict[str, list[tuple[str, str]]] = {}
    for each in sides:
        for block in each.entry.laid.blocks:
            tensors[block.tensor.name] = block.tensor
            origins.setdefault(block.tensor.name, []).append(each.key)
    first: dict[object, LogicalTensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(f".{A}"):
            tensors[name] = first.setdefault((frozenset(origins[name]), tensor.axes, tensor.sizes), tensor)
    return tensors


def _only(entry: Entry, names: set[str]) -> Entry:
    blocks = tuple(block for block in entry.laid.blocks if block.tensor.name in names)
    return entry._replace(laid=entry.laid._replace(blocks=blocks))


def target_modules(linear: Sequence[str], adapted: set[str]) -> tuple[str, ...]:
    """PEFT's target_modules for the adapted of the linear modules: last names, or full ones where only some of a name are adapted.

    >>> target_modules(["0.q_proj", "1.q_proj", "0.up_proj", "1.up_proj"], {"0.q_proj", "1.q_proj", "0.up_proj"})
    ('0.up_proj', 'q_proj')
    """
    partly = {name.rpartition(".")[2] for name in linear if name not in adapted}
    return tuple(sorted({name if name.rpartition(".")[2] in partly else name.rpartition(".")[2] for name in adapted}))


def _module(entry: Entry) -> str:
    return entry.laid.name.removesuffix(".weight")


def _entries(entry: Entry, sides: Mapping[str, LogicalTensor], r: int) -> Iterator[Entry]:
    blocks = entry.laid.blocks
    names = tuple(dict.fromkeys(block.tensor.name for block in blocks))
    if not entry.laid.written or not any(f"{name}.{A}" in sides for name in names):
        return
    if len(entry.laid.shape) != 2 or len({sides.get(f"{name}.{A}") for name in names}) > 1:
        raise PlanError(
            f"{entry.laid.name} {list(entry.laid.shape)} cannot have one LoRA adapter",
            facts=[f"it is made of {', '.join(names)}, which have adapters of their own or none"],
            do="merge them instead: leave out target.adapter_only",
        )
    rows, columns = entry.laid.shape
    module = PREFIX + _module(entry)
    for side, shape in ((A, (r, columns)), (B, (rows, r))):
        # Parts that lie one after the other along the rows share A: then these blocks are the same.
        made = dict.fromkeys(_side(block, sides[f"{block.tensor.name}.{side}"], columns, r, side == B, entry) for block in blocks)
        yield Entry(entry.file, Laid(f"{module}.{side}.weight", shape, tuple(made)), entry.unit)


def _side(block: Block, side: LogicalTensor, columns: int, r: int, per_row: bool, entry: Entry) -> Block:
    """Where the part of A (`per_row`: of B) that belongs to a block of the weight lies in the module's A (B)."""
    axes = tuple(zip(block.tensor.axes, block.starts, block.stops, block.strides, strict=True))
    # An axis that runs over rows belongs to B, one along a row to A; one that the name fixes (the expert) to either.
    wrong = [
        axis
        for axis, start, stop, stride in axes
        if stride and stop - start > 1 and (axis in side.axes) != ((stride >= columns) is per_row)
    ]
    if wrong:
        raise PlanError(
            f"{entry.laid.name}: {', '.join(wrong)} is an input on one side and an output on the other; its adapter does not fit"
        )
    where = {axis: (start, stop, stride // columns * r if per_row else stride) for axis, start, stop, stride in axes}
    where["rank"] = (0, r, 1 if per_row else columns)
    starts, stops, strides = zip(*(where[axis] for axis in side.axes), strict=True)
    return Block(side, starts, stops, block.offset // columns * r if per_row else 0, strides)
