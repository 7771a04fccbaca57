"""Writing `.metadata`: the pickle that torch.distributed.checkpoint loads. Pure.

Opcodes of protocol 4. Classes and attributes' names are put into the memo first, so that a chunk is a few short strings of bytes: a
trillion parameters have a hundred thousand. Chunks and places are as CPython's pickler has them, which is read fastest (`fused`). Of
objects there may be a million which lie at a few places: their names, the parts of their paths and their places are in the memo, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from struct import pack

from convsvc.formats.dcp.records import Chunked, Item, Metadata
from convsvc.formats.pickle.writer import pickled_integer, pickled_text
from convsvc.formats.torch_tensors import DTYPES
from convsvc.tensors.boxes import Box

_CLASSES, _PLACES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
_NAMED = (
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "MetadataIndex", "TensorProperties",
)  # fmt: skip
_GLOBALS = (
    *[(_CLASSES, name) for name in _NAMED],
    *[(_CLASSES, "_MEM_FORMAT_ENCODING"), (_PLACES, "_StorageInfo"), ("torch", "Size"), ("torch.serialization", "_get_layout")],
)
_WORDS = ("fqn", "offset", "index", "relative_path", "length", "properties", "size", "chunks", "offsets", "sizes")
_SHORT_TUPLES = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
_MEMOIZE = b"\x94"
_NEW = b")\x81\x94}\x94("  # an object without arguments, and the dict of its state
_BATCH = 1000  # items in one SETITEMS, as pickle.py does
# torch/distributed/checkpoint/filesystem.py, CURRENT_DCP_VERSION
_VERSION = "1.0.0"


def pickle_metadata(metadata: Metadata, paths: Mapping[str, tuple[str, ...]] | None) -> bytes:
    """The bytes of a `.metadata`. `paths` say where in a nested state a tensor or an object stands, None that the state was flat.

    Every chunk must have its item, and every object its place.
    """
    return b"".join(_Writer().all_of(metadata, paths))


class _Writer:
    """Opcodes by what they push; those of chunks, and of parts of places, that many have are made once."""

    __slots__ = ("chunks", "classes", "files", "key", "lengths", "numbered", "preamble", "value", "words")

    def __init__(self) -> None:
        self.preamble = [b"\x80\x04"]
        self.classes = {name: self._kept(f"c{module}\n{name}\n".encode()) for module, name in _GLOBALS}
        self.words = {word: self._kept(pickled_text(word)) for word in _WORDS}
        self.key = self.classes["MetadataIndex"] + _NEW + self.words["fqn"]
        self.value = b"ub" + self.classes["_StorageInfo"] + _NEW + self.words["relative_path"]
        self.chunks: dict[Box, bytes] = {}
        self.numbered: dict[tuple[int, tuple[int, ...]], bytes] = {}
        self.files: dict[str, bytes] = {}
        self.lengths: dict[int, bytes] = {}

    def _kept(self, opcodes: bytes) -> bytes:
        """Puts an object into the memo and drops it (BINPUT, POP); what fetches it. It must put nothing there itself."""
        number = len(self.preamble) - 1
        put, fetch, place = (b"q", b"h", bytes([number])) if number < 256 else (b"r", b"j", pack("<I", number))
        self.preamble.append(opcodes + put + place + b"0")
        return fetch + place

    def all_of(self, metadata: Metadata, paths: Mapping[str, tuple[str, ...]] | None) -> Iterable[bytes]:
        names = [(name, _text(name)) for name in metadata.tensors]
        tensors = (text + self.tensor(metadata.tensors[name]) for name, text in names)
        places = (place for name, text in names for place in self.places(text, metadata.tensors[name]))
        dtypes = {each.dtype for each in metadata.tensors.values()}
        for dtype in sorted(dtypes):
            self.classes[dtype] = self._kept(f"ctorch\n{DTYPES[dtype]}\n".encode())
        bare = self._kept(self.classes["BytesStorageMetadata"] + b")\x81")
        there = {item: self._kept(self.place(item)) for item in dict.fromkeys(metadata.places[name] for name in metadata.objects)}
        counts = Counter(part for path in (paths or {}).values() for part in path)
        parts = {part: self._kept(pickled_text(part)) if count > 1 else pickled_text(part) for part, count in counts.items()}
        # preamble is complete once these are made
        objects = [(self._kept(pickled_text(name)), there[metadata.places[name]]) for name in metadata.objects]
        yield from self.preamble
        yield self.classes["Metadata"] + b")\x81}(" + pickled_text("state_dict_metadata")
        yield from _dict(chain(tensors, (text + bare for text, _ in objects)))
        yield pickled_text("planner_data")
        if paths is None:
            yield b"N"
        else:
            named = chain(names, zip(metadata.objects, (text for text, _ in objects), strict=True))
            yield from _dict(text + _tuple([parts[part] for part in paths[name]]) for name, text in named)
        yield pickled_text("storage_data")
        index = self.words["index"] + b"N" + self.words["offset"] + b"Nub"  # an object has neither a number nor an offset
        yield from _dict(chain(places, (self.key + text + index + place for text, place in objects)))
        yield pickled_text("storage_meta") + b"N" + pickled_text("version") + pickled_text(_VERSION) + b"ub."

    def tensor(self, chunked: Chunked) -> bytes:
        words, classes, known = self.words, self.classes, self.chunks
        layout = classes["_get_layout"] + pickled_text("torch.strided") + b"\x85R"
        memory = classes["_MEM_FORMAT_ENCODING"] + b"K\x00\x85R"
        # dtype, layout, requires_grad, memory_format, pin_memory: TensorProperties.__getstate__
        properties = classes["TensorProperties"] + b")\x81(" + classes[chunked.dtype] + layout + b"\x89" + memory + b"\x89tb"
        chunks = b"".join([known.get(box) or self.chunk(box) for box, _ in chunked.chunks])
        parts = words["properties"] + properties + words["size"] + self.size(chunked.shape) + words["chunks"] + b"](" + chunks + b"e"
        return classes["TensorStorageMetadata"] + b")\x81}(" + parts + b"ub"

    def chunk(self, box: Box) -> bytes:
        parts = self.words["offsets"] + self.size(box.starts) + self.words["sizes"] + self.size(box.shape)
        made = self.chunks[box] = self.classes["ChunkStorageMetadata"] + _NEW + parts + b"ub"
        return made

    def places(self, name: bytes, chunked: Chunked) -> Iterable[bytes]:
        """The keys of `storage_data`, and their values, of a tensor. Of a million places little but the offsets in files is new."""
        key = self.key + name + self.words["index"]
        at, files, lengths = self.numbered, self.files, self.lengths
        for number, (box, item) in enumerate(chunked.chunks):
            if item is None:
                raise ValueError("a chunk without a place")
            file, offset, length = item
            starts = box[0]
            yield b"".join(
                (
                    key,
                    at.get((number, starts)) or self.numbered_at(number, starts),
                    files.get(file) or self.file(file),
                    pickled_integer(offset),
                    lengths.get(length) or self.length(length),
                )
            )

    def place(self, item: Item) -> bytes:
        """Where an object lies."""
        parts = (self.words["relative_path"], pickled_text(item.file), self.words["offset"], pickled_integer(item.file_offset))
        return b"".join((self.classes["_StorageInfo"], _NEW, *parts, self.words["length"], pickled_integer(item.size_bytes), b"ub"))

    def numbered_at(self, number: int, starts: tuple[int, ...]) -> bytes:
        """The rest of a key, and how its value begins."""
        made = self.numbered[number, starts] = pickled_integer(number) + self.words["offset"] + self.size(starts) + self.value
        return made

    def file(self, name: str) -> bytes:
        made = self.files[name] = _text(name) + self.words["offset"]
        return made

    def length(self, size_bytes: int) -> bytes:
        made = self.lengths[size_bytes] = self.words["length"] + pickled_integer(size_bytes) + b"ub"
        return made

    def size(self, numbers: tuple[int, ...]) -> bytes:
        inner = _tuple([pickled_integer(number) for number in numbers]) + (_MEMOIZE if numbers else b"")
        return self.classes["Size"] + inner + b"\x85\x94R\x94"


def _text(value: str) -> bytes:
    """A string as it is written the first time: SHORT_BINUNICODE, where it fits that."""
    data = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(data)]) + data + _MEMOIZE if len(data) < 256 else pickled_text(value) + _MEMOIZE


def _tuple(parts: list[bytes]) -> bytes:
    short = _SHORT_TUPLES.get(len(parts))
    return b"".join(parts) + short if short else b"(" + b"".join(parts) + b"t"


def _dict(items: Iterable[bytes]) -> Iterable[bytes]:
    """A dict of items, which push a key and a value each."""
    yield b"}"
    batch: list[bytes] = []
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield b"(" + b"".join(batch) + b"u"
            batch.clear()
    if batch:
        yield b"(" + b"".join(batch) + b"u"
