"""The zip file of torch.save (`.pt`, `.bin`, `.pth`) since torch 1.6: a pickle, and one stored record a storage.

    <archive>/data.pkl     the object; tensors refer to records
    <archive>/byteorder    "little"; absent before torch 2.1
    <archive>/data/<key>   a storage's bytes
    <archive>/version      "3"

Layout after `torch/serialization.py` (`_save`, `_load`). We leave `.format_version` and `.storage_alignment` out: torch then takes
each record's offset from the zip directory, and our alignment is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.alike import Alike, Content
from convsvc.formats.base import HEAD_BYTES, FileIndex, Skeleton
from convsvc.formats.known import describe
from convsvc.formats.pickle.machine import LIMITS
from convsvc.formats.regular_file import AnyPath, Readable, open_regular
from convsvc.formats.torch_tensors import Strided, read_torch_pickle
from convsvc.formats.torch_tree import Namer
from convsvc.formats.torch_zip_layout import plan_torch_zip, seal_torch_zip
from convsvc.formats.zip.reader import Digest, Record, check_stored, read_directory
from convsvc.tensors.dtypes import SIZES

WHAT, DO = "a zip file", "give it as a torch checkpoint (.pt, .bin)"
DIGEST_OF = "the zip directory: names, sizes, places and the CRC-32 of every record, so the values too, as far as a CRC-32 goes"

_SMALL_RECORD_BYTES = 64
_ALIKE = Alike()


def looks_like(head: bytes) -> bool:
    """Whether the file begins with a zip's local header, as every file of torch.save does."""
    return head.startswith(b"PK\x03\x04")


def read_index(path: AnyPath) -> FileIndex:
    """Where the tensors of a torch file lie, and everything else it holds, without running its pickle or reading a tensor.

    `tree` is the pickled object; tensors are named by their path in it, e.g. "model/decoder.final_layernorm.weight".
    Raises FormatError naming the file and the tensor, HostileFile for a pickle that names what runs code.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        content = read_content(file, digest)
    return FileIndex(file.path, file.size_bytes, content.tensors, content.tree, digest=f"sha256:{digest.hexdigest()}")


def read_content(file: Readable, digest: Digest | None = None) -> Content:
    """What an open torch file holds; `digest` is given its zip directory. Raises FormatError, HostileFile."""
    _check_head(file)
    records = read_directory(file, digest)
    archive = _archive_of(file, records)
    check_stored(file, records)
    _check_byteorder(file, records.get(f"{archive}/byteorder"))
    pickle = _pickle_of(file, records[f"{archive}/data.pkl"])
    table = tuple(records.values())
    content = _ALIKE.find(pickle, table)
    if content is None:
        content = _run(pickle, file.path, records, f"{archive}/data/")
        _ALIKE.keep(pickle, table, content)
    return content


def plan_skeleton(tree: Mapping[str, Any], *, archive: str, align: int = 4096) -> Skeleton:
    """A new torch file that holds `tree`: dicts, lists, tuples, plain values, Namespaces, and a `TensorSpec` for each tensor. Pure.

    Each tensor gets a storage of its own at an offset divisible by `align`; `archive` is the folder inside the zip, which
    torch.save names after the file. Raises TargetError naming the path of what cannot be written.
    """
    return plan_torch_zip(tree, archive, align)


def seal(skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
    """The segments that need the tensors' checksums (`crcs[name]`, CRC-32): their local headers, and the directory. Pure.

    Raises TargetError if a tensor's checksum is missing.
    """
    return seal_torch_zip(skeleton.seal_state, crcs)


def open_with_library(path: str) -> Mapping[str, Any]:
    """The tensors that torch finds."""
    from convsvc.formats.witnesses import open_torch

    return open_torch(path)


def _run(pickle: bytes, source: str, records: Mapping[str, Record], folder: str) -> Content:
    """What the pickle makes, its tensors found among the records."""
    root = read_torch_pickle(pickle, source)
    namer = Namer(source, lambda tensor: _place(tensor, records, folder))
    tree = namer.name_all({"": root})[""] if isinstance(root, Strided) else namer.name_all(root)
    return Content(tuple(namer.tensors.values()), _as_mapping(tree))


def _check_head(file: Readable) -> None:
    head = file.read(0, min(HEAD_BYTES, file.size_bytes), "the first bytes")
    if not looks_like(head):
        what, do = describe(head)
        raise FormatError(f"{file.path} is not a torch zip file, it is {what}", do=do)


def _archive_of(file: Readable, records: Mapping[str, Record]) -> str:
    """The folder all records are in: the first record's, as torch's own reader takes it."""
    archive = next(iter(records), "").split("/")[0]
    if f"{archive}/constants.pkl" in records or any(name.startswith(f"{archive}/code/") for name in records):
        raise FormatError(
            f"{file.path} is a TorchScript program, not a checkpoint",
            do="save its weights: torch.save(torch.jit.load(path, map_location='cpu').state_dict(), path)",
        )
    if f"{archive}/data.pkl" not in records:
        raise FormatError(
            f"{file.path} is a zip file, but not one of torch.save",
            facts=[f"it has {len(records)} records, none is {archive}/data.pkl"],
            do="give the checkpoint file itself; unpack an archive of checkpoints first",
        )
    return archive


def _check_byteorder(file: Readable, record: Record | None) -> None:
    if record is None:
        return
    order = file.read(record.data_offset, min(record.size_bytes, _SMALL_RECORD_BYTES), "the record byteorder")
    if order != b"little":
        raise FormatError(
            f"{file.path} has the byte order {order.decode(errors='replace')!r}; only little-endian files are read",
            do="load and save it again on a little-endian machine",
        )


def _pickle_of(file: Readable, record: Record) -> bytes:
    if record.size_bytes > LIMITS.size_bytes:
        raise FormatError(
            f"the pickle of {file.path} has {record.size_bytes} bytes, at most {LIMITS.size_bytes} are read",
            do="save the tensors alone, without other large objects",
        )
    return file.read(record.data_offset, record.size_bytes, f"the record {record.name}")


def _place(tensor: Strided, records: Mapping[str, Record], folder: str) -> int:
    """A tensor's first byte in the file; ValueError in words where its storage is not what the pickle says."""
    record = records.get(folder + tensor.storage.key)
    if record is None:
        raise ValueError(f"its storage, the record {folder}{tensor.storage.key}, is not in the file")
    first, _ = tensor.place()
    if tensor.storage.dtype is None:
        raise ValueError(f"its storage is a {tensor.storage.type_name}, which is not read")
    stated = tensor.storage.numel * SIZES[tensor.storage.dtype]
    if stated != record.size_bytes:
        raise ValueError(f"its storage has {record.size_bytes} bytes in the file, the pickle says {stated}")
    return record.data_offset + first


def _as_mapping(tree: Any) -> Mapping[str, Any]:
    return tree if isinstance(tree, Mapping) else {"": tree}
