"""What is particular to safetensors: the header's form, and that each fault in it is named."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import torch

from convsvc.errors import FormatError, TargetError
from convsvc.formats import safetensors as module
from convsvc.formats.base import TensorSpec
from convsvc.formats.safetensors import plan_skeleton, read_index


@pytest.fixture
def with_header(tmp_path):
    """A file with this header (an object, or its text) and this many bytes of data."""

    def write(header, data_bytes=8):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
        return path

    return write


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_reference_reader_accepts_a_header_filled_up_with_spaces(tmp_path, write_planned):
    skeleton = plan_skeleton([TensorSpec("w", "F32", (2,))], {"format": "pt", "step": "7"})
    write_planned(tmp_path / "m", module, skeleton, {"w": bytes(8)})
    header = skeleton.segments[0][1]
    assert len(header) == 4096
    assert header.rstrip(b" ").endswith(b"}}")
    assert header.endswith(b" ")
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}
        assert torch.equal(file.get_tensor("w"), torch.zeros(2))


def test_tensors_keep_the_order_they_are_given_in():
    skeleton = plan_skeleton([TensorSpec("b", "U8", (3,)), TensorSpec("a", "F32", (1,))])
    assert [(tensor.name, tensor.file_offset) for tensor in skeleton.tensors] == [("b", 4096), ("a", 4099)]


def test_a_smaller_alignment_wastes_less():
    assert plan_skeleton([TensorSpec("w", "F32", (2,))], align=8).tensors[0].file_offset < 128


def test_a_file_without_tensors_or_metadata_is_valid(with_header):
    assert read_index(with_header({}, 0)).tensors == ()


def test_metadata_is_read(with_header):
    assert read_index(with_header({"__metadata__": {"a": "b"}}, 0)).metadata == {"a": "b"}


def test_tensors_are_listed_in_the_order_of_their_bytes(with_header):
    path = with_header({"late": entry(offsets=(8, 16)), "early": entry(), "none": entry(shape=(0,), offsets=(8, 8))}, 16)
    assert [tensor.name for tensor in read_index(path).tensors] == ["early", "none", "late"]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        pytest.param({"w": entry(dtype="F4096")}, "w: unknown dtype 'F4096'", id="unknown dtype"),
        pytest.param({"w": entry(dtype=["F32"])}, "w: unknown dtype", id="dtype that is a list"),
        pytest.param({"w": entry(shape=(-2,))}, "w: its shape is not a list of counts", id="negative size"),
        pytest.param({"w": entry(shape=(True, 2))}, "w: its shape is not a list of counts", id="a size that is true"),
        pytest.param({"w": entry(shape=(2.0,))}, "w: its shape is not a list of counts", id="fractional size"),
        pytest.param({"w": entry(shape=(3,))}, r"w: F32 \[3\] takes 12 bytes, its data_offsets \[0, 8\] span 8", id="wrong size"),
        pytest.param({"w": entry(offsets=(0, 8, 8))}, "w: its data_offsets are not two counts", id="three offsets"),
        pytest.param({"w": entry(offsets=(8, 0))}, "w: its data_offsets .* are not within", id="offsets backwards"),
        pytest.param({"w": {"dtype": "F32", "shape": [2]}}, "w: its entry is not an object of", id="no offsets"),
        pytest.param({"w": 7}, "w: its entry is not an object of", id="entry is a number"),
        pytest.param({"__metadata__": {"a": 1}}, "__metadata__ of .* is not an object of strings", id="metadata number"),
        pytest.param({"__metadata__": []}, "__metadata__ of .* is not an object of strings", id="metadata list"),
        pytest.param(b'{"a": NaNa}', "is not valid JSON", id="not JSON"),
        pytest.param(b'{"a\xff": 1}', "is not valid JSON", id="not UTF-8"),
        pytest.param(b'{"\\ud800": 1}', "is not valid JSON", id="lone surrogate"),
    ],
)
def test_each_fault_of_a_header_is_named(with_header, header, text):
    path = with_header(header)
    with pytest.raises(FormatError, match=text) as caught:
        read_index(path)
    assert str(path) in str(caught.value)


def test_all_faults_of_a_file_are_told_at_once(with_header):
    with pytest.raises(FormatError) as caught:
        read_index(with_header({f"w{number}": entry(dtype="X") for number in range(12)}))
    assert len(caught.value.facts) == 11
    assert caught.value.facts[-1] == "and 2 more"


@pytest.mark.parametrize("name", ["w", "__metadata__"])
def test_two_entries_of_one_name_cannot_be_planned(name):
    with pytest.raises(TargetError, match=name):
        plan_skeleton([TensorSpec("w", "F32", ()), TensorSpec(name, "F32", ())])


def test_a_name_that_is_no_text_cannot_be_planned():
    with pytest.raises(TargetError, match="UTF-8"):
        plan_skeleton([TensorSpec("\ud800", "F32", ())])


PLAIN = (
    b'{"__metadata__":{"format":"pt"},'
    b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b.c":{"dtype":"U8","shape":[2,2],"data_offsets":[4,8]}}'
)
SPOILT = {
    "a comma too many": (b"]},", b"]},,"),
    "none": (b"]},", b"]}"),
    "a brace in its place": (b"]},", b"]}{"),
    "a name twice": (b'"b.c"', b'"a"'),
    "an overlap": (b"[4,8]", b"[3,7]"),
    "a start too early": (b"[4,8]", b"[3,8]"),
    "a hole": (b"[0,4]", b"[0,3]"),
    "a shape of another size": (b"[2,2]", b"[2,3]"),
    "a shape that is none": (b"[2,2]", b"[2,,2]"),
    "a size with a zero before it": (b"[2,2]", b"[02,2]"),
    "an offset with a zero before it": (b"[4,8]", b"[04,8]"),
    "a dtype nobody knows": (b'"U8"', b'"U7"'),
    "a field too many": (b'"shape":[1]', b'"shape":[1],"x":1'),
    "words that are none": (b'"pt"', b"7"),
    "a word twice": (b'"pt"', b'"pt","format":"pt"'),
    "something at the end": (b"8]}}", b"8]}} x"),
    "no end": (b"8]}}", b"8]}"),
    "a tensor of that name": (b'"a"', b'"__metadata__"'),
    "a line break in a name": (b'"b.c"', b'"b\n"'),
    "no text": (b'"b.c"', b'"b\xff"'),
}


def test_a_header_as_the_library_writes_it_is_taken_apart_as_text(with_header, monkeypatch):
    monkeypatch.setattr(module, "_parsed", None)
    index = read_index(with_header(PLAIN + b"   "))
    assert [(each.name, each.dtype, each.shape) for each in index.tensors] == [("a", "F32", (1,)), ("b.c", "U8", (2, 2))]
    assert index.metadata == {"format": "pt"}
    assert [each.file_offset - index.tensors[0].file_offset for each in index.tensors] == [0, 4]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_is_wrong_with_a_header_without_spaces_is_seen_as_in_one_with_spaces(with_header, spoil):
    with pytest.raises(FormatError):
        read_index(with_header(PLAIN.replace(*spoil)))


@pytest.mark.parametrize(
    "header",
    [
        PLAIN.replace(b'"b.c"', b'"b,{\xc3\xa9}"'),
        PLAIN.replace(b'"b.c"', b'"b\\u0041"'),
        PLAIN.replace(b'"pt"', b'"{}"'),
        b'{"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0,3],"data_offsets":[4,4]},'
        b'"c":{"dtype":"I32","shape":[1],"data_offsets":[4,8]}}',
    ],
)
def test_a_header_says_the_same_as_text_and_as_json(with_header, monkeypatch, header):
    path = with_header(header)
    read = read_index(path)
    monkeypatch.setattr(module, "_plain_header", lambda *said: None)
    assert read_index(path) == read


@pytest.mark.parametrize("data_bytes", [7, 9])
def test_a_file_that_is_not_as_long_as_its_plain_header_says_is_named(with_header, data_bytes):
    with pytest.raises(FormatError, match="contradicts itself or the file"):
        read_index(with_header(PLAIN, data_bytes))
