"""Reading `.metadata`: the pickle of a torch.distributed.checkpoint Metadata, by our own machine, at a bounded price.

Classes after torch/distributed/checkpoint/metadata.py and filesystem.py (_StorageInfo) of torch 2.0 to 2.13:

    Metadata(state_dict_metadata: {name: TensorStorageMetadata | BytesStorageMetadata}, planner_data, storage_data, storage_meta, version)
    TensorStorageMetadata(properties: TensorProperties, size, chunks: [ChunkStorageMetadata(offsets, sizes)])
    storage_data: {MetadataIndex(fqn, offset, index): _StorageInfo(relative_path, offset, length, transform_descriptors)}

Names are flat whether or not `planner_data` says how they were nested, so that is not looked at. A trillion parameters have 10^5 to 10^6
chunks: objects of these classes keep what is needed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import add
from typing import Any

from convsvc.errors import FormatError
from convsvc.formats.base import Global
from convsvc.formats.dcp.fused import Fused
from convsvc.formats.dcp.records import Chunk, Chunked, Item, Metadata
from convsvc.formats.pickle.machine import Built, Limits
from convsvc.formats.pickle.reader import call_object, read_pickle
from convsvc.formats.regular_file import AnyPath, open_regular
from convsvc.formats.torch_tensors import DTYPES
from convsvc.tensors.boxes import Box

# A million chunks: some 50 opcodes and 250 bytes each.
LIMITS = Limits(size_bytes=512 << 20, opcodes=100_000_000, copied_bytes=1 << 30)
SHOWN = 10
MAX_AXES = 64
# Of what many tensors have in common, so much is kept: as many ranks as there may be.
MOST_KNOWN = 4096
_TAGS = {torch: tag for tag, torch in DTYPES.items()}
_CLASSES, _PLACES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"

_AGAIN = "save the checkpoint again, or copy it again"

Offset = tuple[int, ...]


class _Properties(Built):
    __slots__ = ("dtype",)

    def build(self, state: Any) -> None:
        self.dtype = state[0] if type(state) is tuple else state["dtype"]


class _Tensor(Built):
    __slots__ = ("chunks", "properties", "size")

    def build(self, state: Any) -> None:
        self.properties, self.size, self.chunks = state["properties"], state["size"], state["chunks"]


class _Bytes(Built):
    __slots__ = ()

    def build(self, state: Any) -> None:
        """It has none."""


class _Chunk(Built):
    __slots__ = ("offsets", "sizes")

    @classmethod
    def made(cls, offsets: Any, sizes: Any) -> _Chunk:
        chunk = cls()
        chunk.offsets, chunk.sizes = offsets, sizes
        return chunk

    def build(self, state: Any) -> None:
        self.offsets, self.sizes = state["offsets"], state["sizes"]


class _Index(Built):
    __slots__ = ("fqn", "offset")

    @classmethod
    def made(cls, fqn: Any, offset: Any) -> _Index:
        index = cls()
        index.fqn, index.offset = fqn, offset
        return index

    def build(self, state: Any) -> None:
        self.fqn, self.offset = state["fqn"], state.get("offset")


class _Place(Built):
    __slots__ = ("length", "offset", "path", "transforms")

    @classmethod
    def made(cls, path: Any, offset: Any, length: Any) -> _Place:
        place = cls()
        place.path, place.offset, place.length, place.transforms = path, offset, length, None
        return place

    def build(self, state: Any) -> None:
        self.path, self.offset, self.length = state["relative_path"], state["offset"], state["length"]
        self.transforms = state.get("transform_descriptors")


class _Metadata(Built):
    __slots__ = ("storage", "tensors")

    def build(self, state: Any) -> None:
        self.tensors, self.storage = state["state_dict_metadata"], state["storage_data"]


def _size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch.Size of a tuple, which it is here; never a copy."""
    if len(args) != 1 or type(args[0]) is not tuple or len(args[0]) > MAX_AXES:
        raise TypeError("a torch.Size that is not of a tuple")
    return args[0]


_BUILDERS = {
    (_CLASSES, "Metadata"): lambda args: _Metadata(),
    (_CLASSES, "TensorStorageMetadata"): lambda args: _Tensor(),
    (_CLASSES, "BytesStorageMetadata"): lambda args: _Bytes(),
    (_CLASSES, "ChunkStorageMetadata"): lambda args: _Chunk(),
    (_CLASSES, "MetadataIndex"): lambda args: _Index(),
    (_CLASSES, "TensorProperties"): lambda args: _Properties(),
    # Where torch up to 2.2 had the class, and what Megatron makes of Metadata (core/dist_checkpointing/strategies/torch.py).
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"): lambda args: _Properties(),
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): lambda args: _Metadata(),
    (_PLACES, "_StorageInfo"): lambda args: _Place(),
    ("torch", "Size"): _size,
}

_NEWOBJ = 0x81
_FUSED = {"chunk": (_CLASSES, "ChunkStorageMetadata"), "index": (_CLASSES, "MetadataIndex"), "place": (_PLACES, "_StorageInfo")}
_MADE: Mapping[str, Callable[..., Any]] = {"chunk": _Chunk.made, "index": _Index.made, "place": _Place.made}


def read_metadata(path: AnyPath) -> Metadata:
    """The tensors of a `.metadata` file. Raises FormatError, HostileFile for a pickle that names what runs code; StorageError."""
    with open_regular(path) as file:
        if file.size_bytes > LIMITS.size_bytes:
            raise FormatError(f"{file.path} has {file.size_bytes} bytes, at most {LIMITS.size_bytes} are read")
        return parse_metadata(file.read(0, file.size_bytes, "the metadata"), file.path)


def parse_metadata(data: bytes, source: str) -> Metadata:
    """The same of bytes; `source` is for errors. Pure."""
    root = _root(data, source)
    try:
        return _checked(root, source)
    except AttributeError:
        raise FormatError(f"{source} contradicts itself", facts=["an object in it has no state"], do=_AGAIN) from None


def _root(data: bytes, source: str) -> Any:
    try:
        return read_pickle(data, source, _BUILDERS, _no_persistent_ids, LIMITS, {_NEWOBJ: Fused(call_object, _FUSED, _MADE)})
    except FormatError:
        # Damaged, or an honest pickle that refers to what is not kept: its own opcodes say which.
        return read_pickle(data, source, _BUILDERS, _no_persistent_ids, LIMITS)


def _checked(root: Any, source: str) -> Metadata:
    if type(root) is not _Metadata or type(root.tensors) is not dict or type(root.storage) is not dict:
        raise FormatError(f"{source} is a pickle, but not the metadata of a torch distributed checkpoint", do="give the directory itself")
    faults: list[str] = []
    items = _items(root.storage, faults)
    tensors: dict[str, Chunked] = {}
    objects: list[str] = []
    boxes: dict[Offset, Boxes] = {}
    for name, said in root.tensors.items():
        if type(name) is not str:
            faults.append(f"the name {str(name)[:80]!r} is no string")
        elif type(said) is _Bytes:
            objects.append(name)
        elif type(said) is _Tensor:
            tensors[name] = _tensor(name, said, items, faults, boxes)
        else:
            faults.append(f"{name[:200]}: is neither a tensor nor an object")
    if faults:
        shown = faults[:SHOWN] + ([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])
        raise FormatError(f"{source} contradicts itself", facts=shown, do=_AGAIN)
    return Metadata(tensors, tuple(objects), {name: item for name in objects if (item := items.get((name, None))) is not None})


def _no_persistent_ids(pid: Any) -> Any:
    raise TypeError("a persistent id, which no metadata has")


def _items(storage: Mapping[Any, Any], faults: list[str]) -> dict[tuple[str, Offset | None], Item]:
    """Where each (name, offset) lies."""
    items: dict[tuple[str, Offset | None], Item] = {}
    sound_offsets: set[Offset] = set()
    sound_paths: set[str] = set()
    for index, place in storage.items():
        if type(index) is not _Index or type(place) is not _Place or type(index.fqn) is not str:
            faults.append("a place in it is not (name, offset): (file, offset, length)")
            continue
        offset, path = index.offset, place.path
        fault = None if offset is None else _offset_fault(offset, sound_offsets)
        fault = fault or _place_fault(place, sound_paths)
        if fault is None:
            key, item = (index.fqn, offset), Item(path, place.offset, place.length)
            if items.setdefault(key, item) is not item:
                fault = f"is in two places, at {items[key].file} and {path}"
        if fault is not None:
            faults.append(f"{index.fqn[:200]}: {fault}")
    return items


def _offset_fault(offset: Any, sound: set[Offset]) -> str | None:
    """What is wrong with the first index of a chunk; `sound` are those with which nothing is, of which there are few."""
    try:
        if offset in sound:
            return None
    except TypeError:  # no tuple of numbers
        return "its offset is no list of counts"
    if not _are_counts(offset):
        return "its offset is no list of counts"
    if len(sound) < MOST_KNOWN:
        sound.add(offset)
    return None


def _place_fault(place: _Place, sound: set[str]) -> str | None:
    path = place.path
    if type(path) is not str or (path not in sound and not _is_inside(path)):
        return f"it lies in {str(path)[:100]!r}, which is no file within the directory"
    if len(sound) < MOST_KNOWN:
        sound.add(path)
    first, length = place.offset, place.length
    if type(first) is not int or type(length) is not int or not (0 <= first < 2**53 and 0 <= length < 2**53):
        return "its place in the file is not two counts"
    if place.transforms:
        return "it is packed by an extension, which is not read; save it without"
    return None


def _is_inside(path: str) -> bool:
    return bool(path) and "\0" not in path and len(path) < 4096 and not any(part in ("", ".", "..") for part in path.split("/"))


Boxes = dict[tuple[Offset, Offset], Box]


def _tensor(
    name: str,
    said: _Tensor,
    items: Mapping[tuple[str, Offset | None], Item],
    faults: list[str],
    known: dict[Offset, Boxes],
) -> Chunked:
    """A tensor; `known` are, by shape, the boxes of those before it, which are within theirs."""
    shape, chunks, dtype = said.size, [], getattr(said.properties, "dtype", None)
    if not _are_counts(shape) or type(said.chunks) is not list or type(dtype) is not Global or dtype.module != "torch":
        faults.append(f"{name[:200]}: is not (dtype, size, chunks)")
        return Chunked("", (), ())
    boxes = known.setdefault(shape, {})
    for chunk in said.chunks:
        box = _box(chunk, shape, boxes)
        if box is None:
            faults.append(f"{name[:200]}: a chunk of it is not within its size {list(shape)}")
            break
        chunks.append(Chunk(box, items.get((name, box.starts))))
    return Chunked(_TAGS.get(dtype.name, f"torch.{dtype.name}"), shape, tuple(chunks))


def _box(chunk: Any, shape: Offset, known: Boxes) -> Box | None:
    """The box of a chunk; None where it is not within the shape.

    Sizes may lack the first axes that its offsets have: there it is one wide. So Megatron can save what it stacks, whose offsets count
    layers or experts and whose values are those of one (Megatron-LM's PR 7162).
    """
    if type(chunk) is not _Chunk:
        return None
    offsets, sizes = chunk.offsets, chunk.sizes
    try:
        box = known.get((offsets, sizes))
    except TypeError:  # no tuples of numbers
        return None
    if box is None:
        if not _are_counts(offsets) or not _are_counts(sizes):
            return None
        whole = (1,) * (len(offsets) - len(sizes)) + sizes
        if not _are_within(offsets, whole, shape):
            return None
        box = Box(offsets, tuple(map(add, offsets, whole)))
        if len(known) < MOST_KNOWN:
            known[offsets, sizes] = box
    return box


def _are_within(offsets: Offset, sizes: Offset, shape: Offset) -> bool:
    if not len(offsets) == len(sizes) == len(shape):
        return False
    return all(start + size <= whole for start, size, whole in zip(offsets, sizes, shape, strict=True))


def _are_counts(values: Any) -> bool:
    if type(values) is not tuple or len(values) > MAX_AXES:
        return False
    for value in values:  # noqa: SIM110  a generator takes thrice as long, a million times
        if type(value) is not int or not 0 <= value < 2**53:
            return False
    return True
