"""`.metadata`: torch's is read without being run, ours is torch's, and what contradicts itself or asks for code is refused."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as of
from torch.distributed.checkpoint.filesystem import _StorageInfo

from convsvc.errors import FormatError, HostileFile
from convsvc.formats.dcp.metadata import parse_metadata, read_metadata
from convsvc.formats.dcp.records import Chunk, Chunked, Item, Metadata
from convsvc.formats.dcp.writing import pickle_metadata
from convsvc.tensors.boxes import Box
from convsvc.tensors.dtypes import SIZES
from tests.dialects.dcp.made import make_metadata

W = {"w": torch.zeros(4, 3)}
HALVES = {"w": [(("a.distcp", (0, 0), (2, 3)), 0, 10), (("b.distcp", (2, 0), (4, 3)), 7, 20)]}


def parse(metadata: Any) -> Metadata:
    return parse_metadata(pickle.dumps(metadata), "m")


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    state = {"model": {"w": torch.zeros(4, 3), "b": torch.zeros((), dtype=torch.bfloat16)}, "step": 7}
    with warnings.catch_warnings(action="ignore"):
        dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path), no_dist=True)
    metadata = read_metadata(tmp_path / ".metadata")
    assert {name: (each.dtype, each.shape) for name, each in metadata.tensors.items()} == {
        "model.w": ("F32", (4, 3)),
        "model.b": ("BF16", ()),
    }
    assert metadata.objects == ("step",)
    items = [chunk.item for each in metadata.tensors.values() for chunk in each.chunks]
    assert {item.file for item in items if item} == {"__0_0.distcp"}
    assert sum(item.size_bytes for item in items if item) < (tmp_path / "__0_0.distcp").stat().st_size


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_protocol_says_the_same(protocol: int) -> None:
    metadata = parse_metadata(pickle.dumps(make_metadata(W, HALVES, "model."), protocol), "m")
    halves = (Chunk(Box((0, 0), (2, 3)), Item("a.distcp", 0, 10)), Chunk(Box((2, 0), (4, 3)), Item("b.distcp", 7, 20)))
    assert metadata == Metadata({"model.w": Chunked("F32", (4, 3), halves)}, ())


def test_ours_is_what_torch_would_have_pickled() -> None:
    names = [f"model.{number}" for number in range(3000)]
    chunks = (
        Chunk(Box((0, 0), (300, 70_000)), Item("__0_0.distcp", 4096, 5_000_000_000)),
        Chunk(Box((300, 0), (301, 70_000)), Item("x", 0, 9)),
    )
    ours = Metadata(
        {name: Chunked("BF16", (301, 70_000), chunks) for name in names}
        | {"s": Chunked("F32", (), (Chunk(Box((), ()), Item("x", 9, 9)),))},
        (),
    )
    data = pickle_metadata(ours, {name: tuple(name.split(".")) for name in ours.tensors})
    theirs = pickle.loads(data)
    large = of.TensorStorageMetadata(
        of.TensorProperties(dtype=torch.bfloat16),
        torch.Size([301, 70_000]),
        [
            of.ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([300, 70_000])),
            of.ChunkStorageMetadata(torch.Size([300, 0]), torch.Size([1, 70_000])),
        ],
    )
    assert theirs.state_dict_metadata["model.2999"] == large
    assert isinstance(theirs.state_dict_metadata["model.0"].size, torch.Size)
    assert theirs.storage_data[of.MetadataIndex("model.7", torch.Size([0, 0]))] == _StorageInfo("__0_0.distcp", 4096, 5_000_000_000)
    assert theirs.planner_data["model.7"] == ("model", "7")
    assert parse_metadata(data, "m") == ours


def test_objects_are_what_torch_would_have_pickled_though_many_lie_at_one_place() -> None:
    """More names than a byte numbers, beside tensors, with parts of paths that many have and that one has."""
    places = [Item("__0_0.distcp", 300 * number, 300) for number in range(3)]
    names = [f"meta.w{number}.lr" for number in range(700)]
    box = Box((0, 0), (2, 70_000))
    tensors = {f"model.w{number}": Chunked("F32", (2, 70_000), (Chunk(box, Item("x", number, 9)),)) for number in range(700)}
    ours = Metadata(tensors, tuple(names), {name: places[number % 3] for number, name in enumerate(names)})
    data = pickle_metadata(ours, {name: tuple(name.split(".")) for name in (*tensors, *names)})
    theirs = pickle.loads(data)
    for number, name in enumerate(names):
        assert isinstance(theirs.state_dict_metadata[name], of.BytesStorageMetadata)
        assert theirs.planner_data[name] == ("meta", f"w{number}", "lr")
        assert theirs.storage_data[of.MetadataIndex(name)] == _StorageInfo(*places[number % 3])
    assert theirs.storage_data[of.MetadataIndex("model.w699", torch.Size([0, 0]))] == _StorageInfo("x", 699, 9)
    assert theirs.planner_data["model.w699"] == ("model", "w699")
    assert parse_metadata(data, "m") == ours


def test_every_dtype_has_torchs_name() -> None:
    chunk = (Chunk(Box((0,), (2,)), Item("x", 0, 9)),)
    known = [dtype for dtype in SIZES if dtype != "F4"]
    ours = Metadata({dtype: Chunked(dtype, (2,), chunk) for dtype in known}, ())
    assert parse_metadata(pickle_metadata(ours, {dtype: (dtype,) for dtype in known}), "m") == ours


def test_every_cut_of_it_is_an_error_of_ours() -> None:
    data = pickle.dumps(make_metadata(W, HALVES))
    for stop in range(len(data)):
        with pytest.raises(FormatError):
            parse_metadata(data[:stop], "m")


def test_every_byte_that_is_another_is_an_error_of_ours_or_harmless() -> None:
    data = pickle.dumps(make_metadata(W, HALVES))
    for at in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            try:
                parse_metadata(changed, "m")
            except FormatError:
                continue


class Evil:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


def test_a_pickle_that_asks_to_run_code_is_refused_wherever_it_asks() -> None:
    metadata = make_metadata(W, HALVES)
    metadata.planner_data = Evil()
    with pytest.raises(HostileFile, match="asks to run code"):
        parse(metadata)


def first_place(metadata: of.Metadata, **changes: Any) -> None:
    place = next(iter(metadata.storage_data.values()))
    for name, value in changes.items():
        setattr(place, name, value)


def first_chunk(metadata: of.Metadata, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(metadata.state_dict_metadata["w"].chunks[0], name, value)  # type: ignore[union-attr]


WRONG: dict[str, tuple[Callable[[of.Metadata], object], str]] = {
    "outside": (lambda m: first_place(m, relative_path="../x"), "no file within the directory"),
    "absolute": (lambda m: first_place(m, relative_path="/etc/passwd"), "no file within the directory"),
    "negative": (lambda m: first_place(m, offset=-1), "not two counts"),
    "no number": (lambda m: first_place(m, length="9"), "not two counts"),
    "packed": (lambda m: first_place(m, transform_descriptors=["zstd"]), "packed by an extension"),
    "beyond": (lambda m: first_chunk(m, sizes=torch.Size([5, 3])), "not within its size"),
    "other rank": (lambda m: first_chunk(m, offsets=torch.Size([0])), "not within its size"),
    "no list": (lambda m: setattr(m.state_dict_metadata["w"], "chunks", None), "is not \\(dtype, size, chunks\\)"),
    "no tensor": (lambda m: m.state_dict_metadata.update(w=7), "neither a tensor nor an object"),
    "no name": (lambda m: m.state_dict_metadata.update({7: m.state_dict_metadata.pop("w")}), "no string"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_itself_is_refused_in_words(name: str) -> None:
    change, words = WRONG[name]
    metadata = make_metadata(W, HALVES)
    change(metadata)
    with pytest.raises(FormatError, match=words):
        parse(metadata)


def test_a_pickle_of_something_else_is_no_metadata() -> None:
    with pytest.raises(FormatError, match="not the metadata of a torch distributed checkpoint"):
        parse({"state_dict_metadata": {}})


@pytest.mark.parametrize(("protocol", "limit"), [(2, 2000), (4, 1024)])
def test_what_a_chunk_costs_while_it_is_read_is_bounded(protocol: int, limit: int) -> None:
    """A trillion parameters have 10^5 to 10^6 chunks. Protocol 2, which torch writes, says each opcode; 4 is read in few steps."""
    pieces = [((f"__{rank}_0.distcp", (rank * 2, 0), (rank * 2 + 2, 3)), rank * 4096, 4000) for rank in range(20_000)]
    data = pickle.dumps(make_metadata({"model.layers.0.mlp.w": torch.zeros(40_000, 3)}, {"model.layers.0.mlp.w": pieces}), protocol)
    tracemalloc.start()
    try:
        metadata = parse_metadata(data, "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(metadata.tensors["model.layers.0.mlp.w"].chunks) == 20_000
    assert peak / 20_000 < limit
