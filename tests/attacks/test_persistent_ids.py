"""A pickle whose tensors point where they should not: other records, beyond their storage, at what is no storage.

What stops it: a persistent id is a record's key and nothing else; a tensor's place is computed from checked numbers and must lie
inside a record whose size the pickle states correctly (`torch_zip._place`, `torch_tensors.Strided.place`).
"""

from __future__ import annotations

import pytest

STORAGE = b"(X\x07\x00\x00\x00storagectorch\n%s\nX%s%sX\x03\x00\x00\x00cpu%stQ"


def integer(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    return STORAGE % (kind.encode(), len(key).to_bytes(4, "little"), key.encode(), integer(numel))


def tensor(where: bytes, start: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)) -> bytes:
    numbers = b"".join(b"(" + b"".join(map(integer, values)) + b"t" for values in (shape, strides))
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + where + integer(start) + numbers + b"\x89NtRs."


def test_the_unharmed_tensor_is_read(pt_with):
    from convsvc.formats.torch_zip import read_index

    assert read_index(pt_with(tensor(storage()), _0=bytes(16))).tensors[0].shape == (4,)


@pytest.mark.parametrize(
    ("pickle", "text"),
    [
        pytest.param(tensor(storage(key="1")), "record model/data/1, is not in the file", id="no such record"),
        pytest.param(tensor(storage(numel=5)), "has 16 bytes in the file, the pickle says 20", id="larger than its record"),
        pytest.param(tensor(storage(numel=3), shape=(3,)), "has 16 bytes in the file, the pickle says 12", id="smaller than its record"),
        pytest.param(tensor(storage(), start=1), "takes 16 bytes from byte 4 on, its storage has 16", id="beyond the end"),
        pytest.param(tensor(storage(), shape=(1 << 40,)), "its storage has 16", id="a huge shape"),
        pytest.param(tensor(storage(), shape=(1 << 52,) * 3, strides=(1,) * 3), "is not row-major", id="sizes that overflow"),
        pytest.param(tensor(storage(), shape=(2, 2), strides=(0, 1)), "is not row-major", id="stride zero"),
        pytest.param(tensor(storage(kind="QInt8Storage")), "has the dtype QInt8Storage", id="a quantised storage"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused_by_name(refused, pickle, text):
    error = refused(pickle, _0=bytes(16))
    assert text in str(error)
    assert "w: " in str(error)


@pytest.mark.parametrize(
    "pickle",
    [
        pytest.param(tensor(storage(key="../data.pkl")), id="a key that is a path"),
        pytest.param(tensor(storage(key="0" * 101)), id="a key without end"),
        pytest.param(tensor(storage(key="")), id="no key"),
        pytest.param(tensor(storage(numel=-4)), id="negative number of elements"),
        pytest.param(tensor(storage(), start=-1), id="negative offset"),
        pytest.param(tensor(storage(), shape=(-4,)), id="negative size"),
        pytest.param(tensor(storage(), shape=(2, 2)), id="more sizes than strides"),
        pytest.param(tensor(storage(), shape=(1,) * 65, strides=(1,) * 65), id="65 axes"),
        pytest.param(tensor(b"N"), id="no storage"),
        pytest.param(tensor(b"X\x07\x00\x00\x00storage"), id="a string as storage"),
        pytest.param(b"\x80\x02X\x04\x00\x00\x00pathQ.", id="a string as persistent id"),
        pytest.param(b"\x80\x02(X\x06\x00\x00\x00moduleNNNNtQ.", id="a module as persistent id"),
        pytest.param(b"\x80\x02(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000NK\x04tQ.", id="a storage of no type"),
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", id="a tensor of nothing"),
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n(" + storage() + b"K\x00))\x89NNtR.", id="no dtype"),
    ],
)
def test_what_is_no_storage_is_refused(refused, pickle):
    assert "is damaged" in refused(pickle, _0=bytes(16)).message
