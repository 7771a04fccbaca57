"""A small pickle that costs a large amount of memory or time.

What stops it: every value is paid for by bytes of the file, integers, keys and copies have limits (`pickle.machine.Limits`), each
container is walked once (`torch_tree.Namer`), and nesting ends at a hundred.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import pytest

from convsvc.errors import FormatError
from convsvc.formats.pickle.machine import Limits
from convsvc.formats.pickle.reader import read_pickle
from convsvc.formats.torch_zip import read_index


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every attack here ends within seconds and within 64 MiB, refused or read."""
    tracemalloc.start()
    started = time.process_time()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - started < 10
    assert peak < 64 << 20


def short(number: int) -> bytes:
    return number.to_bytes(4, "little")


def test_doubled_lists_are_walked_once(pt_with):
    steps = [b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) + b"0" for n in range(60)]
    assert read_index(pt_with(b"\x80\x02]q\x000" + b"".join(steps) + b"h\x3c.")).tensors == ()


def test_doubled_tuples_are_walked_once(pt_with):
    steps = [b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(60)]
    assert read_index(pt_with(b"\x80\x02)q\x000" + b"".join(steps) + b"h\x3c.")).tensors == ()


@pytest.mark.parametrize("container", [b"}h\x3cNs.", b"\x8f(h\x3c\x90.", b"(h\x3c\x91."], ids=["dict", "set", "frozenset"])
def test_a_doubled_tuple_is_never_hashed(refused, container):
    data = b"\x80\x04)q\x00" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) + b"0" for n in range(60))
    assert "tuple as a key" in str(refused(data + b"0" + container))


@pytest.mark.parametrize("opening", [b"]", b"}K\x01", b"\x85"], ids=["lists", "dicts", "tuples"])
def test_deep_nesting_is_refused(refused, opening):
    closing = {b"]": b"a", b"}K\x01": b"s"}.get(opening)
    data = b"N" + opening * 20_000 + b"." if closing is None else opening * 20_000 + b"N" + closing * 20_000 + b"."
    assert "nested deeper than 100" in str(refused(b"\x80\x02" + data))


def test_a_tuple_that_contains_itself_is_refused(refused):
    assert "contains itself" in str(refused(b"\x80\x02]q\x00\x85q\x010h\x00h\x01a0h\x01."))


def test_a_list_that_contains_itself_is_read(pt_with):
    assert read_index(pt_with(b"\x80\x02]q\x00h\x00a.")).tensors == ()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x8b\xff\xff\xff\x7f", id="an integer of 2 GiB"),
        pytest.param(b"\x8b" + short(5000) + bytes(5000), id="an integer of 5000 bytes"),
        pytest.param(b"X\xff\xff\xff\xff", id="a string of 4 GiB"),
        pytest.param(b"\x8d" + b"\xff" * 8, id="a string of 2**64 bytes"),
        pytest.param(b"\x8e" + b"\xff" * 8, id="bytes of 2**64"),
        pytest.param(b"\x96" + b"\xff" * 8, id="a bytearray of 2**64"),
        pytest.param(b"j\xff\xff\xff\xff", id="memo 2**32 - 1"),
        pytest.param(b"I" + b"9" * 100_000 + b"\n", id="an integer of 100000 digits"),
    ],
)
def test_a_size_that_the_file_does_not_have_allocates_nothing(refused, data):
    refused(b"\x80\x04" + data + b".")


def test_a_huge_memo_number_allocates_no_table(pt_with):
    assert read_index(pt_with(b"\x80\x02}r\xff\xff\xff\xff.")).tree == {}


def test_builtins_that_allocate_by_number_are_not_called(pt_with):
    record = read_index(pt_with(b"\x80\x02}K\x01cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85Rs.")).tree[1]
    assert record.args == (1 << 36,)


def test_one_large_list_is_not_copied_a_million_times(refused):
    data = b"\x80\x04](" + b"N" * 10_000 + b"eq\x00cbuiltins\nset\nq\x01" + b"0" + b"h\x01h\x00\x85R" * 10_000 + b"."
    assert "copies over" in str(refused(data.replace(b"N" * 10_000, b"K\x01" * 10_000)))


def test_one_long_string_is_not_encoded_a_million_times(refused):
    text = b"X" + short(1 << 20) + b"a" * (1 << 20)
    data = b"\x80\x02" + text + b"X\x06\x00\x00\x00latin1\x86q\x000c_codecs\nencode\nq\x010" + b"h\x01h\x00R0" * 2000 + b"N."
    with pytest.raises(FormatError, match="copies over"):
        read_pickle(data, "x.pt", {("_codecs", "encode"): lambda args: args[0].encode()}, id, Limits(copied_bytes=8 << 20))
    assert refused(data)


def test_one_dict_of_attributes_is_not_copied_a_million_times(refused):
    names = b"".join(b"X\x05\x00\x00\x00" + b"%05d" % number + b"N" for number in range(5000))
    data = b"\x80\x02}(" + names + b"uq\x000]q\x01" + b"cargparse\nNamespace\n)\x81h\x00b0" * 2000 + b"."
    assert "copies over" in str(refused(data))


def test_keys_made_to_collide_are_refused(refused):
    large = b"".join(b"\x8a\x09" + (number * (2**61 - 1)).to_bytes(9, "little") + b"N" for number in range(5, 40))
    assert "int as a key" in str(refused(b"\x80\x02}(" + large + b"u."))
    tuples = b"".join(b"M" + number.to_bytes(2, "little") + b"\x85N" for number in range(10_001))
    assert "keys that are tuples" in str(refused(b"\x80\x02}(" + tuples + b"u."))


def test_a_million_tensors_under_a_long_path_are_refused(refused):
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00))\x89NtRq\x000"
    key = b"X" + short(1 << 20) + b"k" * (1 << 20)
    data = b"\x80\x02" + tensor + b"}" + key + b"](" + b"h\x00" * 5000 + b"es."
    assert "have over" in str(refused(data, _0=bytes(4)))


def test_more_opcodes_than_a_checkpoint_needs_are_refused():
    with pytest.raises(FormatError, match="over 1000 opcodes"):
        read_pickle(b"\x80\x02" + b"N0" * 600 + b"N.", "x.pt", {}, id, Limits(opcodes=1000))


def test_a_pickle_larger_than_the_limit_is_not_read(pt_with, monkeypatch):
    path = pt_with(b"\x80\x02" + bytes(1000))
    monkeypatch.setattr("convsvc.formats.torch_zip.LIMITS", Limits(size_bytes=999))
    with pytest.raises(FormatError, match="has 1002 bytes, at most 999"):
        read_index(path)


def test_an_inert_record_of_any_depth_has_a_short_text(pt_with):
    data = b"\x80\x02}K\x01N" + b"cmodule\nThing\nq\x000" + b"".join(b"\x85q\x01" + b"0h\x00h\x01R" for _ in range(40)) + b"s."
    assert repr(read_index(pt_with(data)).tree[1]) == "Inert(module.Thing)"
