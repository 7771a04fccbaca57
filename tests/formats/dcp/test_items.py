"""Items of a `.distcp` file: torch's are found where they lie, ours are torch's, and what is not as `.metadata` says is refused."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convsvc.errors import FormatError
from convsvc.formats import distcp
from convsvc.formats.base import TensorSpec
from convsvc.formats.dcp.items import Wanted, locate_items
from convsvc.formats.dcp.records import Item
from convsvc.formats.witnesses import DTYPES

SHAPES: list[tuple[int, ...]] = [(), (1,), (0, 3), (7, 5), (300, 300)]


def saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_items_of_every_dtype_and_shape_are_found_behind_each_other(tmp_path: Path) -> None:
    tensors = [torch.rand(shape).mul(100).to(getattr(torch, name.removeprefix("torch."))) for name in DTYPES for shape in SHAPES]
    data, wanted = b"", []
    for number, tensor in enumerate(tensors):
        item = saved(tensor)
        wanted.append(Wanted(Item("x", len(data), len(item)), f"w{number}", DTYPES[str(tensor.dtype)], tuple(tensor.shape)))
        data += item + bytes(number % 3)
    (tmp_path / "x").write_bytes(data)
    size, _, found = locate_items(tmp_path / "x", wanted)
    assert size == len(data)
    for tensor, place in zip(tensors, found, strict=True):
        assert data[place.file_offset : place.file_offset + place.size_bytes] == bytes_of(tensor)


def test_what_is_written_is_items_that_torch_loads(tmp_path: Path) -> None:
    tensors = {f"w{number}": torch.rand(shape) for number, shape in enumerate([*SHAPES, (1, 70_000)])}
    skeleton = distcp.plan_skeleton([TensorSpec(name, "F32", tuple(each.shape)) for name, each in tensors.items()])
    data = bytearray(skeleton.size_bytes)
    for place in skeleton.tensors:
        data[place.file_offset : place.file_offset + place.size_bytes] = bytes_of(tensors[place.name])
    for offset, segment in distcp.seal(skeleton, {name: zlib.crc32(bytes_of(each)) for name, each in tensors.items()}):
        assert not any(data[offset : offset + len(segment)])
        data[offset : offset + len(segment)] = segment
    for place in skeleton.tensors:
        start, size = distcp.item_of(place)
        loaded = torch.load(io.BytesIO(data[start : start + size]), weights_only=True)
        assert torch.equal(loaded, tensors[place.name])
        assert loaded.shape == tensors[place.name].shape


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda item: item[:-30], "no sound|not a sound|cut short"),
        (lambda item: saved(torch.zeros(3, 2)), "not what .metadata says"),
        (lambda item: saved(torch.zeros(2, 3).double()), "not what .metadata says"),
        (lambda item: saved({"w": torch.zeros(2, 3)}), "in a tree"),
        (lambda item: saved([]), "holds 0 tensors"),
        (lambda item: b"\0" * len(item), "not a torch zip file"),
        (lambda item: b"", "is empty|cut short"),
    ],
)
def test_an_item_that_is_something_else_is_refused_by_its_tensors_name(tmp_path: Path, make: Callable[[bytes], bytes], words: str) -> None:
    item = make(saved(torch.zeros(2, 3)))
    (tmp_path / "x").write_bytes(saved(torch.ones(1)) + item)
    wanted = Wanted(Item("x", len(saved(torch.ones(1))), len(item)), "the.weight", "F32", (2, 3))
    with pytest.raises(FormatError, match=words) as caught:
        locate_items(tmp_path / "x", [wanted])
    assert "the.weight" in str(caught.value)


def test_an_item_beyond_the_files_end_is_refused(tmp_path: Path) -> None:
    item = saved(torch.zeros(2, 3))
    (tmp_path / "x").write_bytes(item[:-1])
    with pytest.raises(FormatError, match="cut short"):
        locate_items(tmp_path / "x", [Wanted(Item("x", 0, len(item)), "w", "F32", (2, 3))])
