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
from convsvc.formats.base import StoredTensor, TensorSpec
from convsvc.formats.dcp import items
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


# -- items that are alike


def alike(tmp_path: Path, third: bytes | None = None) -> tuple[Path, list[Wanted]]:
    """Three items of one dtype and shape behind each other, the last as given."""
    items = [saved(torch.rand(2, 3)), saved(torch.rand(2, 3))]
    items.append(third or saved(torch.rand(2, 3)))
    (tmp_path / "x").write_bytes(b"".join(items))
    size = len(items[0])
    assert [len(item) for item in items] == [size] * 3
    return tmp_path / "x", [Wanted(Item("x", number * size, size), f"w{number}", "F32", (2, 3)) for number in range(3)]


def outcome(path: Path, wanted: list[Wanted]) -> object:
    try:
        return locate_items(path, wanted)
    except FormatError as error:
        return str(error)


def one_by_one(path: Path, wanted: list[Wanted], monkeypatch: pytest.MonkeyPatch) -> object:
    """What comes out where every item is taken apart."""
    with monkeypatch.context() as patch:
        patch.setattr(items, "pattern_of", lambda *_: None)
        return outcome(path, wanted)


def test_items_that_are_alike_are_taken_apart_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wanted = alike(tmp_path)
    slowly, whole, taken = one_by_one(path, wanted, monkeypatch), items.read_content, []
    monkeypatch.setattr(items, "read_content", lambda *arguments: taken.append(1) or whole(*arguments))
    assert locate_items(path, wanted) == slowly
    assert len(taken) == 1


def test_an_item_of_another_dtype_that_has_the_size_of_its_neighbours_is_refused(tmp_path: Path) -> None:
    """An int32's name is two letters shorter, which the alignment of what follows makes up for."""
    path, wanted = alike(tmp_path, saved(torch.ones(2, 3, dtype=torch.int32)))
    with pytest.raises(FormatError, match=r"not what .metadata says") as caught:
        locate_items(path, wanted)
    assert "w2" in str(caught.value)


@pytest.mark.parametrize("of_ours", [False, True])
def test_any_byte_that_is_another_is_judged_as_if_no_item_were_alike(
    of_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = alike(tmp_path)
    if of_ours:
        data, places = written_twice()
        path.write_bytes(data)
        wanted = [Wanted(Item("x", *distcp.item_of(place)), place.name, "F32", (2, 3)) for place in places]
    data = path.read_bytes()
    _, first, size = wanted[-1].item
    for at in range(first, first + size):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        assert outcome(path, wanted) == one_by_one(path, wanted, monkeypatch), f"byte {at - first}"


def written_twice() -> tuple[bytes, tuple[StoredTensor, ...]]:
    """A file of ours of two tensors that are alike."""
    skeleton = distcp.plan_skeleton([TensorSpec(name, "F32", (2, 3)) for name in ("v", "w")])
    data = bytearray(skeleton.size_bytes)
    for offset, segment in distcp.seal(skeleton, {"v": 1, "w": 2}):
        data[offset : offset + len(segment)] = segment
    return bytes(data), skeleton.tensors
