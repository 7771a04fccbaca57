"""Chunks and their places, made in one step each: what they are, and what the pickle says of them later, is as opcode by opcode."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata as of
from torch.distributed.checkpoint.filesystem import _StorageInfo

from convsvc.errors import FormatError
from convsvc.formats.dcp import metadata as reading
from convsvc.formats.dcp.metadata import parse_metadata
from convsvc.formats.dcp.records import Chunk, Chunked, Item, Metadata
from convsvc.formats.dcp.writing import pickle_metadata
from convsvc.formats.pickle.machine import Limits
from convsvc.formats.pickle.reader import call_object
from convsvc.tensors.boxes import Box

NUMBERS = (0, 1, 0x4B, 0x84, 0x85, 0x94, 0xFF, 0x100, 0x9494, 0xFFFF, 0x10000, 0x94949494, 1 << 31, 1 << 40, (1 << 53) - 1)


def drawn(seed: int, count: int = 200) -> of.Metadata:
    """Chunks of any rank at any place, objects shared as in torch's own (offsets, names) or not, names of any characters."""
    draw = random.Random(seed)
    said: dict[str, Any] = {}
    places: dict[of.MetadataIndex, _StorageInfo] = {}
    for number in range(count):
        name = draw.choice(("layers.", "schön.", "a" * 300, "h\x94")) + str(number)
        offsets = torch.Size(draw.choices(NUMBERS, k=draw.randint(0, 5)))
        sizes = torch.Size(draw.choices(NUMBERS[:5], k=len(offsets)))
        whole = torch.Size(min(a + b, (1 << 53) - 1) for a, b in zip(offsets, sizes, strict=True))
        sizes = torch.Size(b - a for a, b in zip(offsets, whole, strict=True))
        said[name] = of.TensorStorageMetadata(of.TensorProperties(torch.float32), whole, [of.ChunkStorageMetadata(offsets, sizes)])
        index = of.MetadataIndex(name if draw.random() < 0.5 else str(name.encode(), "utf-8"), offsets, draw.choice((None, 0, 300)))
        if draw.random() < 0.5:
            object.__setattr__(index, "offset", offsets)
        file = draw.choice(("__0_0.distcp", "h.distcp", "übung.distcp"))
        places[index] = _StorageInfo(file + str(draw.randint(0, 3)), draw.choice(NUMBERS), draw.choice(NUMBERS))
    return of.Metadata(said, planner_data={}, storage_data=places, storage_meta=of.StorageMeta(), version="1.0.0")


def slowly(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Metadata:
    with monkeypatch.context() as patch:
        patch.setattr(reading, "Fused", lambda *_: call_object)
        return parse_metadata(data, "m")


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_same_opcode_by_opcode(seed: int, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(drawn(seed), protocol)
    assert parse_metadata(data, "m") == slowly(data, monkeypatch)


def test_a_chunk_and_its_place_take_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opcode by opcode a chunk takes some seventy; half of these belong to the tensors, of which there is one a chunk here."""
    metadata = drawn(1, 1)
    name, said = next(iter(metadata.state_dict_metadata.items()))
    chunks = [of.ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([1, 9])) for at in range(1000)]
    said.size, said.chunks = torch.Size([1000, 9]), chunks  # type: ignore[union-attr]
    metadata.storage_data = {of.MetadataIndex(name, chunk.offsets): _StorageInfo("__0_0.distcp", 0, 9) for chunk in chunks}
    data = pickle.dumps(metadata)
    monkeypatch.setattr(reading, "LIMITS", Limits(opcodes=12 * 1000))
    assert len(parse_metadata(data, "m").tensors[name].chunks) == 1000
    with pytest.raises(FormatError, match="opcodes"):
        slowly(data, monkeypatch)


def test_what_we_write_is_read_in_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = tuple(Chunk(Box((at, 0), (at + 1, 9)), Item("__0_0.distcp", at * 4096, 5000)) for at in range(1000))
    ours = Metadata({"model.w": Chunked("F32", (1000, 9), chunks)}, ())
    monkeypatch.setattr(reading, "LIMITS", Limits(opcodes=12 * 1000))
    assert parse_metadata(pickle_metadata(ours, {"model.w": ("model", "w")}), "m") == ours


def test_what_refers_to_what_was_not_kept_is_read_all_the_same() -> None:
    """No pickler of Metadata does: here a chunk stands in a list twice, so that the second is a look at the memo."""
    metadata = drawn(2, 3)
    said: Any = next(iter(metadata.state_dict_metadata.values()))
    said.chunks.append(said.chunks[0])
    chunked = next(iter(parse_metadata(pickle.dumps(metadata), "m").tensors.values()))
    assert len(chunked.chunks) == 2
    assert chunked.chunks[0] == chunked.chunks[1]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [(b"K\x01K\x09\x86", b"K\x01K\x09\x85"), (b"\x8c\x0c__0_0.distcp", b"\x8c\x0b__0_0.distcp")],
    ids=["a tuple of fewer numbers", "a string of fewer letters"],
)
def test_what_only_looks_like_a_chunk_or_a_place_is_an_error(was: bytes, becomes: bytes) -> None:
    """A step counts what it takes: numbers of a tuple, letters of a string. Ours says attributes' names first, so one chunk is a step."""
    chunk = Chunk(Box((0, 0), (1, 9)), Item("__0_0.distcp", 0, 9))
    data = pickle_metadata(Metadata({"w": Chunked("F32", (5, 300), (chunk,))}, ()), {"w": ("w",)})
    assert parse_metadata(data, "m").tensors["w"].chunks == (chunk,)
    assert was in data
    with pytest.raises(FormatError):
        parse_metadata(data.replace(was, becomes), "m")
