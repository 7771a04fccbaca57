"""Strategy files in their binary form, `ckpt_strategy_rank_N.ckpt`: the fields of node_strategy.proto, read and written.

    ParallelStrategyMap  1 current_stage, 2 ParallelStrategyItem..., 3 ParallelLayoutItem...
    ParallelStrategyItem 1 node_name, 2 ParallelStrategys {1 stage, 2 ParallelStrategy {1 dim...}...}
    ParallelLayoutItem   1 param_name, 2 ParallelLayouts
    ParallelLayouts      1 DevMatrix..., 2 TensorMap..., 3 ParamSplitShape..., 4 IndicesOffset... (each {1 dim...}),
                         5 field, 6 opt_weight_shard_step, 7 opt_weight_shard_size

Lists are not packed and a written zero is written, so that a file read and written again is the same bytes.
"""

from __future__ import annotations

from convsvc.formats.strategy.protobuf import Field, Message, bytes_field, number_field
from convsvc.formats.strategy.records import Operator, ParameterLayout, Strategy, checked

# A stage of a model with a thousand layers, with both Adam moments, has about 30,000 parameters.
_MAX_ITEMS = 1 << 18
_MAX_NAME_BYTES = 1024
_MAX_LISTS = 64
_MAX_DIMS = 64
_MAX_SPLITS = 1 << 12
_NOT_CUT = -1


def parse_binary(data: bytes, path: str) -> Strategy:
    """The strategy in a binary file's bytes; `path` names it in errors. Pure.

    Raises FormatError that names the byte and what was expected there, or a parameter whose layout contradicts itself.
    """
    top = Message(data, 0, len(data), "the strategy", path)
    layouts: list[ParameterLayout] = []
    operators: list[Operator] = []
    current_stage = 0
    for field in top.fields():
        if len(layouts) + len(operators) > _MAX_ITEMS:
            raise top.wrong(field.at, f"at most {_MAX_ITEMS} operators and parameters", "more")
        if field.number == 1:
            current_stage = top.number(field, "current_stage")
        elif field.number == 2:
            operators.append(_operator(top.within(field, f"operator {len(operators)}")))
        elif field.number == 3:
            layouts.append(_layout_item(top.within(field, f"parameter {len(layouts)}")))
    return checked(Strategy(tuple(layouts), tuple(operators), current_stage), path)


def to_binary(strategy: Strategy) -> bytes:
    """A strategy as a binary file: the same bytes for the same values, and what MindSpore's reader expects. Pure.

    >>> from convsvc.formats.strategy.records import stage_strategy
    >>> strategy = stage_strategy(0, [ParameterLayout("w", (2, 2), ((1, 0), ()), 1, -1)])
    >>> parse_binary(to_binary(strategy), "here") == strategy
    True
    """
    parts = [number_field(1, strategy.current_stage)]
    for operator in strategy.operators:
        inputs = b"".join([_list_field(2, cuts) for cuts in operator.cuts])
        parts.append(_item(2, operator.name, number_field(1, operator.stage) + inputs))
    parts += [_item(3, layout.name, _layout_bytes(layout)) for layout in strategy.layouts]
    return b"".join(parts)


def _item(number: int, name: str, value: bytes) -> bytes:
    return bytes_field(number, bytes_field(1, name.encode()) + bytes_field(2, value))


def _list_field(number: int, values: tuple[int, ...]) -> bytes:
    return bytes_field(number, b"".join([number_field(1, value) for value in values]))


def _layout_bytes(layout: ParameterLayout) -> bytes:
    maps = b"".join([_list_field(2, axes) for axes in _tensor_map_lists(layout.tensor_map)])
    lists = _list_field(1, layout.dev_matrix) + maps + _list_field(3, layout.param_split_shape) + _list_field(4, layout.indices_offset)
    shard = number_field(6, layout.opt_weight_shard_step) + number_field(7, layout.opt_weight_shard_size)
    return lists + number_field(5, layout.field) + shard


def _tensor_map_lists(tensor_map: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """One list for all dimensions where each is cut by one axis at most; else one a dimension, and an empty one if there is but one
    dimension, so that it is not taken for the first form (strategy_checkpoint_info.cc, to_protobuf)."""
    if all(len(axes) <= 1 for axes in tensor_map):
        return [tuple(axes[0] if axes else _NOT_CUT for axes in tensor_map)]
    return [axes or (_NOT_CUT,) for axes in tensor_map] + [()] * (len(tensor_map) == 1)


def _operator(item: Message) -> Operator:
    name, value = _named(item, "node_name", "parallel_strategys")
    stage: int | None = None
    cuts: list[tuple[int, ...]] = []
    for field in value.fields():
        if field.number == 1:
            stage = value.number(field, "a stage")
        elif field.number == 2 and len(cuts) < _MAX_DIMS:
            cuts.append(value.within(field, f"an input of {name}").numbers("an operator's cuts", _MAX_DIMS))
    if stage is None or stage < 0:
        raise item.wrong(item.start, f"a stage from 0 on for {name}", f"{stage}")
    return Operator(name, stage, tuple(cuts))


def _layout_item(item: Message) -> ParameterLayout:
    name, value = _named(item, "param_name", "parallel_layouts")
    lists: dict[int, list[tuple[int, ...]]] = {1: [], 2: [], 3: [], 4: []}
    numbers: dict[int, int] = {}
    for field in value.fields():
        if field.number in lists:
            at_most = _MAX_DIMS if field.number < 3 else _MAX_SPLITS
            lists[field.number].append(value.within(field, f"the layout of {name}").numbers(_LISTS[field.number], at_most))
            if len(lists[field.number]) > _MAX_LISTS:
                raise value.wrong(field.at, f"at most {_MAX_LISTS} of {_LISTS[field.number]}", "more")
        elif field.number in (5, 6, 7):
            numbers[field.number] = value.number(field, _NUMBERS[field.number])
    for number, least, most in ((1, 1, 1), (2, 1, _MAX_LISTS), (3, 0, 1), (4, 0, 1)):
        if not least <= len(lists[number]) <= most:
            raise value.wrong(value.start, f"{least} to {most} of {_LISTS[number]} in the layout of {name}", f"{len(lists[number])}")
    split, offsets = (lists[number][0] if lists[number] else () for number in (3, 4))
    tensor_map = _tensor_map(lists[2])
    return ParameterLayout(name, lists[1][0], tensor_map, numbers.get(6, 0), numbers.get(7, 0), split, offsets, numbers.get(5, 0))


_LISTS = {1: "dev_matrix", 2: "tensor_map", 3: "param_split_shape", 4: "indices_offset"}
_NUMBERS = {5: "field", 6: "opt_weight_shard_step", 7: "opt_weight_shard_size"}


def _tensor_map(lists: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    if len(lists) == 1:
        return tuple(() if axis == _NOT_CUT else (axis,) for axis in lists[0])
    return tuple(tuple(axis for axis in axes if axis != _NOT_CUT) for axes in lists if axes)


def _named(item: Message, name_field: str, value_field: str) -> tuple[str, Message]:
    """The name and the message of an item; each must be there once."""
    found: dict[int, Field] = {}
    for field in item.fields():
        if field.number in (1, 2):
            if field.number in found:
                raise item.wrong(field.at, f"one {(name_field, value_field)[field.number - 1]}", "a second one")
            found[field.number] = field
    if len(found) < 2:
        raise item.wrong(item.start, f"{name_field} and {value_field}", "one of them or none")
    name = item.text(found[1], name_field, _MAX_NAME_BYTES)
    return name, item.within(found[2], name)
