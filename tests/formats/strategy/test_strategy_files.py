"""Strategy files against MindSpore's own parser, against a reader that knows no schema, and against bytes that are none."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.errors import FormatError
from convsvc.formats.strategy.binary import parse_binary, to_binary
from convsvc.formats.strategy.json_form import parse_json
from convsvc.formats.strategy.protobuf import bytes_field, number_field, varint
from convsvc.formats.strategy.reader import MAX_STRATEGY_BYTES, read_strategy
from convsvc.formats.strategy.records import Operator, ParameterLayout, Strategy, layouts_by_stage, stage_strategy

CORPUS = Path(__file__).parents[2] / "golden/mindformers"
FILES = sorted((CORPUS / "strategies").rglob("*.ckpt"))
SAID: dict[str, Any] = json.loads(gzip.decompress((CORPUS / "mindspore_says.json.gz").read_bytes()))["parsed"]
SMALL = CORPUS / "strategies/ep_multi/ckpt_strategy_rank_0.ckpt"


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def said_of(path: Path) -> dict[str, Any]:
    said = SAID[named(path)]
    return SAID[said] if isinstance(said, str) else said


def test_the_corpus_is_there() -> None:
    assert len(FILES) == 27
    assert {named(path) for path in FILES} == set(SAID)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_real_file_says_what_mindspore_reads_and_is_written_again_byte_for_byte(path: Path) -> None:
    strategy = read_strategy(path)
    said = said_of(path)
    assert (strategy.stage, strategy.current_stage) == (said["stage"], said["current_stage"])
    assert [[each.name, each.stage, [list(cuts) for cuts in each.cuts]] for each in strategy.operators] == said["operators"]
    for layout, (name, meshes, maps, step, size) in zip(strategy.layouts, said["layouts"], strict=True):
        assert (layout.name, [list(layout.dev_matrix)]) == (name, meshes)
        assert (layout.opt_weight_shard_step, layout.opt_weight_shard_size) == (step, size)
        lists = maps if len(maps) > 1 else [[axis] for axis in maps[0]]
        assert layout.tensor_map == tuple(tuple(axis for axis in axes if axis >= 0) for axes in lists)
    assert to_binary(strategy) == path.read_bytes()


# Bytes without a schema: a message is a list of (field, number or bytes).
def raw_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                return value, at

    at = 0
    while at < len(data):
        tag, at = number(at)
        value, at = number(at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + value]
            at += value
        else:
            assert tag & 7 == 0
            yield tag >> 3, value - (1 << 64) if value >> 63 else value


def raw_layout(item: bytes) -> tuple[str, list[tuple[int, Any]]]:
    (_, name), (_, value) = raw_fields(item)
    return name.decode(), [(number, [each for _, each in raw_fields(held)] if number < 5 else held) for number, held in raw_fields(value)]


MESHES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def layouts(draw: st.DrawFn) -> ParameterLayout:
    mesh = draw(MESHES)
    dimensions = draw(st.integers(0, 3))
    map_: list[list[int]] = [[] for _ in range(dimensions)]
    for axis in draw(st.permutations(range(len(mesh)))):
        at = draw(st.integers(-1, dimensions - 1))
        if at >= 0:
            map_[at].append(axis)
    split = tuple(draw(st.lists(st.integers(0, 9), max_size=2)))
    return ParameterLayout(
        draw(st.text(min_size=1, max_size=9)),
        tuple(mesh),
        tuple(map(tuple, map_)),
        draw(st.integers(0, 8)),
        draw(st.integers(-1, 8)),
        split,
        split,
        draw(st.integers(0, 3)),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(layouts(), min_size=1, max_size=5, unique_by=lambda each: each.name), st.integers(0, 7))
def test_what_is_written_is_read_again_and_a_reader_without_schema_finds_it(drawn: list[ParameterLayout], stage: int) -> None:
    strategy = stage_strategy(stage, drawn)
    data = to_binary(strategy)
    assert parse_binary(data, "here") == strategy
    found = [raw_layout(value) for number, value in raw_fields(data) if number == 3]
    for layout, (name, values) in zip(drawn, found, strict=True):
        assert name == layout.name
        assert [value for number, value in values if number == 1] == [list(layout.dev_matrix)]
        # MindSpore looks into the first of each of these lists, so it must be there, though empty.
        assert [value for number, value in values if number == 3] == [list(layout.param_split_shape)]
        maps = [value for number, value in values if number == 2]
        cut = [list(axes) or [-1] for axes in layout.tensor_map]
        assert maps in ([[axis for axes in cut for axis in axes]], cut, [*cut, []])
        assert (len(maps) == 1) == all(len(axes) < 2 for axes in layout.tensor_map)
        assert dict(values)[7] == layout.opt_weight_shard_size


def parsed(data: bytes) -> Strategy | None:
    """None where it is refused; any other error passes on."""
    try:
        return parse_binary(data, "here")
    except FormatError:
        return None


def test_a_file_cut_anywhere_is_refused_or_ends_with_a_whole_item() -> None:
    data = SMALL.read_bytes()
    whole = parse_binary(data, "here")
    ends = {len(to_binary(replace(whole, layouts=whole.layouts[:count]))) for count in range(1, len(whole.layouts))}
    read = set()
    for stop in range(len(data)):
        cut = parsed(data[:stop])
        if cut:
            read.add(stop)
            assert cut.layouts == whole.layouts[: len(cut.layouts)]
    assert read == ends


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    changed = bytearray(SMALL.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    parsed(bytes(changed))


def operator() -> bytes:
    return bytes_field(2, bytes_field(1, b"op") + bytes_field(2, number_field(1, 0)))


def item(layout: bytes, name: bytes = b"w") -> bytes:
    return operator() + bytes_field(3, bytes_field(1, name) + bytes_field(2, layout))


def numbers(field: int, *values: int) -> bytes:
    return bytes_field(field, b"".join(number_field(1, value) for value in values))


GOOD = numbers(1, 2) + numbers(2, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "no operators"),
        (operator(), "no parameters' layouts"),
        (bytes_field(3, bytes_field(1, b"w") + bytes_field(2, GOOD)), "no operators"),
        (b"\xff" * 11, "byte 0, .*of at most 10 bytes"),
        (b"\x1a" + varint(1 << 40) + b"abc", "byte 0.*1099511627776 bytes, found 3 bytes left"),
        (b"\x1b\x1c", "wire type 3"),
        (b"\x00\x00", "a field's number, found 0"),
        (item(numbers(1, 2)), "1 to 64 of tensor_map in the layout of w, found 0"),
        (item(numbers(2, 0)), "1 to 1 of dev_matrix in the layout of w, found 0"),
        (item(GOOD + numbers(1, 2)), "1 to 1 of dev_matrix in the layout of w, found 2"),
        (item(numbers(1, 2) + numbers(2, 1)), "cut by axes .*every one cuts once"),
        (item(numbers(1, 2) + numbers(2, 0, 0)), "every one cuts once"),
        (item(numbers(1, 0) + numbers(2, 0)), "an empty axis"),
        (item(GOOD + number_field(7, -2)), "optimizer shard size of -2"),
        (item(GOOD + number_field(7, 1 << 40)), "opt_weight_shard_size in 32 bits"),
        (item(numbers(1, *[1] * 65) + numbers(2, -1)), "at most 64 numbers in dev_matrix"),
        (item(GOOD) + item(GOOD), "has two layouts"),
        (item(GOOD, b"\xff"), "param_name in UTF-8"),
        (item(GOOD, b""), "param_name of 1 to 1024 bytes"),
        (item(GOOD, b"w" * 1025), "param_name of 1 to 1024 bytes"),
        (operator() + bytes_field(3, bytes_field(1, b"w")), "param_name and parallel_layouts"),
        (operator() + bytes_field(3, bytes_field(1, b"w") + bytes_field(2, GOOD) * 2), "one parallel_layouts, found a second"),
        (operator() + number_field(3, 7), "parameter 0 as a message"),
        (bytes_field(2, bytes_field(1, b"op") + bytes_field(2, b"")), "a stage from 0 on for op"),
    ],
    ids=lambda each: str(len(each)) if isinstance(each, bytes) else None,
)  # fmt: skip
def test_what_is_no_strategy_is_refused_with_the_place_and_what_was_expected(data: bytes, expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        parse_binary(data, "here")


def test_unknown_fields_are_passed_over_and_packed_lists_are_read() -> None:
    packed = bytes_field(1, bytes_field(1, varint(2) + varint(3))) + bytes_field(2, bytes_field(1, varint(0) + varint(-1)))
    unknown = number_field(99, 5) + varint(98 << 3 | 5) + b"1234" + varint(97 << 3 | 1) + b"12345678"
    (layout,) = parse_binary(item(packed + unknown) + unknown, "here").layouts
    assert (layout.dev_matrix, layout.tensor_map) == ((2, 3), ((0,), ()))


def test_more_items_than_any_model_has_are_refused_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsvc.formats.strategy.binary._MAX_ITEMS", 100)
    with pytest.raises(FormatError, match="at most 100 operators and parameters"):
        parse_binary(operator() * 102, "here")


def test_a_file_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "s.ckpt"
    with path.open("wb") as file:
        file.truncate(MAX_STRATEGY_BYTES + 1)
    with pytest.raises(FormatError, match="too large"):
        read_strategy(path)


def as_json(strategy: Strategy) -> dict[str, Any]:
    """As StrategyCheckpointInfo::to_json writes it."""
    return {
        "current_stage": strategy.current_stage,
        "parallel_strategy_item": {each.name: {"stage": each.stage, "parallel_strategy": each.cuts} for each in strategy.operators},
        "parallel_layout_item": {
            each.name: {
                "dev_matrix": each.dev_matrix,
                "tensor_map": [axes[0] if axes else -1 for axes in each.tensor_map],
                "tensor_shape": [8] * len(each.tensor_map),
                "field": each.field,
                "opt_weight_shard_step": each.opt_weight_shard_step,
                "opt_weight_shard_size": each.opt_weight_shard_size,
            }
            for each in strategy.layouts
        },
    }


def test_json_says_the_same_as_binary(tmp_path: Path) -> None:
    binary = read_strategy(CORPUS / "strategies/tp2dp2_opt/ckpt_strategy_rank_0.ckpt")
    path = tmp_path / "strategy.json"
    path.write_text(json.dumps(as_json(binary)))
    read = read_strategy(path)
    assert [replace(each, tensor_shape=None) for each in read.layouts] == list(binary.layouts)
    assert (read.operators, read.stage) == (binary.operators, binary.stage)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda top: top.update(parallel_layout_item=[]), "parallel_layout_item: expected an object, found list"),
        (lambda top: top.pop("parallel_layout_item"), "no parameters' layouts"),
        (lambda top: top["parallel_layout_item"]["w"].pop("dev_matrix"), "dev_matrix of w: expected a list"),
        (lambda top: top["parallel_layout_item"]["w"].update(tensor_map=[True]), "tensor_map of w: expected a whole number"),
        (lambda top: top["parallel_layout_item"]["w"].update(opt_weight_shard_size=1e300), "opt_weight_shard_size of w"),
        (lambda top: top["parallel_layout_item"]["w"].update(tensor_map=[7]), "every one cuts once"),
        (lambda top: top["parallel_strategy_item"]["w"].update(stage=None), "stage of w: expected a whole number"),
    ],
)
def test_json_that_is_no_strategy_is_refused(change: Any, expected: str) -> None:
    top = as_json(stage_strategy(0, [ParameterLayout("w", (2,), ((0,),))]))
    change(top)
    with pytest.raises(FormatError, match=expected):
        parse_json(json.dumps(top).encode(), "here")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{", b'{"a":1,"a":2}', b"[" * 200_000], ids=len)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="here"):
        parse_json(data, "here")


def test_a_merged_file_has_the_layouts_of_every_stage() -> None:
    merged = Strategy((ParameterLayout("0-w", (2,), ((0,),)), ParameterLayout("1-w-x", (2,), ((),))), (Operator("op", 0),))
    assert {stage: list(layouts) for stage, layouts in layouts_by_stage(merged).items()} == {0: ["w"], 1: ["w-x"]}
    plain = Strategy((ParameterLayout("0-w", (2,), ((0,),)), ParameterLayout("w", (2,), ((),))), (Operator("op", 3),))
    assert {stage: list(layouts) for stage, layouts in layouts_by_stage(plain).items()} == {3: ["0-w", "w"]}
