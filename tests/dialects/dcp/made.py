"""Torch distributed checkpoints for tests, with torch's own classes and torch.save: cut as a test says, into the files it says."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import metadata as of
from torch.distributed.checkpoint.filesystem import _StorageInfo

from convsvc.conversion import convert

Tensors = Mapping[str, torch.Tensor]
Piece = tuple[str, tuple[int, ...], tuple[int, ...]]  # file, starts, stops


def whole(name: str, shape: tuple[int, ...]) -> list[Piece]:
    return [("__0_0.distcp", (0,) * len(shape), shape)]


def fsdp2(world: int) -> Callable[[str, tuple[int, ...]], list[Piece]]:
    """The first dimension over ranks as torch.chunk cuts it, so that the last ranks may have less, or nothing."""

    def cut(name: str, shape: tuple[int, ...]) -> list[Piece]:
        pieces, at = [], 0
        for rank, rows in enumerate(torch.arange(shape[0]).chunk(world)):
            pieces.append((f"__{rank}_0.distcp", (at, *(0,) * (len(shape) - 1)), (at + len(rows), *shape[1:])))
            at += len(rows)
        return pieces

    return cut


def make_metadata(tensors: Tensors, items: Mapping[str, list[tuple[Piece, int, int]]], prefix: str = "") -> of.Metadata:
    """Metadata as torch makes it: `items` are each tensor's pieces, with offset and length."""
    said: dict[str, Any] = {}
    places: dict[of.MetadataIndex, _StorageInfo] = {}
    for name, tensor in tensors.items():
        chunks = []
        for number, ((file, starts, stops), offset, length) in enumerate(items[name]):
            start = torch.Size(starts)
            chunks.append(of.ChunkStorageMetadata(start, torch.Size([b - a for a, b in zip(starts, stops, strict=True)])))
            places[of.MetadataIndex(prefix + name, start, number)] = _StorageInfo(file, offset, length)
        said[prefix + name] = of.TensorStorageMetadata(of.TensorProperties(dtype=tensor.dtype), tensor.size(), chunks)
    paths = {name: tuple(name.split(".", 1)) if prefix else (name,) for name in said}
    return of.Metadata(said, planner_data=paths, storage_data=places, storage_meta=of.StorageMeta(), version="1.0.0")


def write_dcp(
    folder: Path,
    tensors: Tensors,
    cut: Callable[[str, tuple[int, ...]], list[Piece]] = whole,
    prefix: str = "",
    change: Callable[[of.Metadata], object] = lambda metadata: None,
    saved_as: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, piece: piece,
) -> Path:
    """A checkpoint of these tensors, `change` being done to its metadata before it is saved; answers `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, io.BytesIO] = {}
    items: dict[str, list[tuple[Piece, int, int]]] = {}
    for name, tensor in tensors.items():
        for piece in cut(name, tuple(tensor.shape)):
            file, starts, stops = piece
            box = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
            stream = files.setdefault(file, io.BytesIO())
            offset = stream.tell()
            saved = io.BytesIO()
            torch.save(saved_as(name, tensor[box]).clone(), saved)
            stream.write(saved.getvalue())
            items.setdefault(name, []).append((piece, offset, stream.tell() - offset))
    for file, stream in files.items():
        (folder / file).write_bytes(stream.getvalue())
    metadata = make_metadata(tensors, items, prefix)
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def numbered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of which every element differs from its neighbours."""
    return {name: torch.arange(prod(shape)).reshape(shape).float() + at / 16 for at, (name, shape) in enumerate(shapes.items())}


def run(source: Mapping[str, Any], target: Mapping[str, Any], model_type: str | None = None, **options: Any) -> Any:
    job = {"source": source, "target": target, "options": {"verify": "full", **options}}
    return convert(job | ({"model_type": model_type} if model_type else {}), engine="inline")


def back(source: Path, target: Path, **stated: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The Hugging Face tensors that a checkpoint becomes, and the notes of the conversion."""
    result = run({"format": "dcp", "path": str(source), **stated}, {"format": "huggingface", "path": str(target)})
    return in_safetensors(target), [note.text for note in result.notes]


def in_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same(want: Tensors, have: Tensors) -> bool:
    return want.keys() == have.keys() and all(torch.equal(want[name], have[name]) for name in want)
