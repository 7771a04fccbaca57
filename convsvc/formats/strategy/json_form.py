"""Strategy files in their JSON form, whose names end `.json` (strategy_checkpoint_info.cc, to_json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.strategy.records import Operator, ParameterLayout, Strategy, checked


def parse_json(data: bytes, path: str) -> Strategy:
    """The strategy in a JSON file's bytes; `path` names it in errors. Pure.

    >>> layout = '{"dev_matrix":[2],"tensor_map":[0,-1],"field":0,"opt_weight_shard_step":0,"opt_weight_shard_size":0}'
    >>> text = '{"current_stage":1,"parallel_strategy_item":{"op":{"stage":0}},"parallel_layout_item":{"w":%s}}' % layout
    >>> parse_json(text.encode(), "here").layouts[0].tensor_map
    ((0,), ())

    Raises FormatError that names the field and what was expected of it.
    """
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "the file", "JSON with no field twice", str(error)) from error
    reader = _Reader(path)
    top = reader.mapping(content, "the file")
    operators = [
        Operator(name, reader.number(item, "stage", name), reader.lists(item, "parallel_strategy", name))
        for name, item in reader.items(top, "parallel_strategy_item")
    ]
    layouts = [_layout(reader, name, item) for name, item in reader.items(top, "parallel_layout_item")]
    return checked(Strategy(tuple(layouts), tuple(operators), reader.number(top, "current_stage", "the file", 0)), path)


def _layout(reader: _Reader, name: str, item: Mapping[str, Any]) -> ParameterLayout:
    map_ = reader.lists(item, "tensor_map", name, must=True)
    return ParameterLayout(
        name,
        reader.numbers(item, "dev_matrix", name, must=True),
        tuple(tuple(axis for axis in axes if axis != -1) for axes in map_),
        reader.number(item, "opt_weight_shard_step", name),
        reader.number(item, "opt_weight_shard_size", name),
        reader.numbers(item, "param_split_shape", name),
        reader.numbers(item, "indices_offset", name),
        reader.number(item, "field", name, 0),
        reader.numbers(item, "tensor_shape", name) if "tensor_shape" in item else None,
    )


class _Reader:
    """Values of a JSON file that must be what they are said to be."""

    def __init__(self, path: str) -> None:
        self.path = path

    def mapping(self, value: object, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(self.path, where, "an object", type(value).__name__)
        return value

    def items(self, top: Mapping[str, Any], field: str) -> list[tuple[str, Mapping[str, Any]]]:
        named = self.mapping(top.get(field, {}), field)
        if "" in named:
            raise _wrong(self.path, field, "a name for every item", "an empty one")
        return [(name, self.mapping(item, f"{field} {name}")) for name, item in named.items()]

    def number(self, item: Mapping[str, Any], field: str, where: str, default: int | None = None) -> int:
        return self._int32(item.get(field, default), f"{field} of {where}")

    def numbers(self, item: Mapping[str, Any], field: str, where: str, *, must: bool = False) -> tuple[int, ...]:
        return tuple([self._int32(value, f"{field} of {where}") for value in self._list(item, field, where, must)])

    def lists(self, item: Mapping[str, Any], field: str, where: str, *, must: bool = False) -> tuple[tuple[int, ...], ...]:
        """A list of lists; a plain number stands for a list of one."""
        values = [value if isinstance(value, list) else [value] for value in self._list(item, field, where, must)]
        return tuple([tuple([self._int32(each, f"{field} of {where}") for each in value]) for value in values])

    def _list(self, item: Mapping[str, Any], field: str, where: str, must: bool) -> list[Any]:
        value = item.get(field, None if must else [])
        if not isinstance(value, list):
            raise _wrong(self.path, f"{field} of {where}", "a list", type(value).__name__)
        return value

    def _int32(self, value: object, where: str) -> int:
        if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
            raise _wrong(self.path, where, "a whole number in 32 bits", repr(value)[:80])
        return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is given twice")
    return made


def _wrong(path: str, where: str, expected: str, given: str) -> FormatError:
    return FormatError(
        f"{path} is no MindSpore strategy file in JSON, or is damaged",
        facts=[f"{where}: expected {expected}, found {given}"],
        do="copy the file again; a binary strategy file's name must not end .json",
        details={"file": path},
    )
