"""safetensors: an 8-byte length, that many bytes of JSON, then the tensors without a gap.

Facts as in the reference implementation (safetensors 0.4 to 0.8, `SafeTensors::read_metadata`): a header of at most 100 MB,
which begins with "{" and may end in spaces; offsets count from the end of the header; tensors neither overlap nor leave holes
and together reach the end of the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import prod
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from convsvc.errors import FormatError, TargetError
from convsvc.formats.base import HEAD_BYTES, FileIndex, Skeleton, StoredTensor, TensorSpec, stored_tensors
from convsvc.formats.known import describe
from convsvc.formats.regular_file import AnyPath, RegularFile, open_regular
from convsvc.tensors.dtypes import SIZES

WHAT, DO = "a safetensors file", "give it as safetensors"
DIGEST_OF = "the header: names, dtypes, shapes and places, not the values"

MAX_HEADER_BYTES = 100_000_000
# Values in a header's JSON, counted before it is parsed: 100 MB of "[[],[],..." would become 2 GB of Python objects.
MAX_HEADER_VALUES = 8_000_000
_METADATA = "__metadata__"
_SHOWN_FAULTS = 10
_AGAIN = "copy or download the file again; if it stays so, the program that wrote it is broken"
_INT = {int}
# An entry as the library writes it (serde_json, `Metadata::serialize`): three fields in this order, no spaces.
_COUNT = "(0|[1-9][0-9]*)"
_ENTRY = re.compile(
    r'[{,]"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+","shape":\[[0-9,]*)\],"data_offsets":\[' + _COUNT + "," + _COUNT + r"\]\}"
)
_ENTRY_CHARACTERS = len(',"":{"dtype":"],"data_offsets":[,]}')
_PT: Mapping[str, str] = MappingProxyType({"format": "pt"})


def looks_like(head: bytes) -> bool:
    """Whether the file begins with a believable length and a JSON object.

    >>> looks_like(b"\\x02" + bytes(7) + b"{}")
    True
    """
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def read_index(path: AnyPath) -> FileIndex:
    """Where the tensors of a safetensors file lie, from its header alone. `tensors` are in the order of their bytes.

    Raises FormatError naming the file, the tensor, what was found and what was expected.
    """
    with open_regular(path) as file:
        raw, digest = _read_header(file)
        data_start = 8 + len(raw)
        plain = _plain_header(raw, data_start, file.size_bytes)
        if plain is None:
            header = _checked_header(file.path, raw)
            metadata = _checked_metadata(file.path, header.pop(_METADATA, {}))
            plain = metadata, _checked_tensors(file, header, data_start)
    metadata, tensors = plain
    return FileIndex(file.path, file.size_bytes, tensors, {tensor.name: tensor for tensor in tensors}, metadata, digest)


def plan_skeleton(tensors: Sequence[TensorSpec], metadata: Mapping[str, str] = _PT, *, align: int = 4096) -> Skeleton:
    """A new file with these tensors, one after the other in the given order, the first of them `align`-aligned. Pure.

    The header is filled up with spaces, which every reader skips, so that the data begins where direct I/O can reach it.
    Raises TargetError for names that occur twice and for a header over 100 MB.

    >>> plan_skeleton([TensorSpec("w", "BF16", (2, 3))]).tensors
    (StoredTensor(name='w', dtype='BF16', shape=(2, 3), file_offset=4096),)
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    stop = 0
    for tensor in tensors:
        if tensor.name in header or tensor.name == _METADATA:
            raise TargetError(f"a safetensors file cannot hold two entries named {tensor.name!r}")
        start, stop = stop, stop + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, stop]}
    head = _encode_header(header, align)
    stored = [
        StoredTensor(tensor.name, tensor.dtype, tensor.shape, len(head) + header[tensor.name]["data_offsets"][0]) for tensor in tensors
    ]
    return Skeleton(len(head) + stop, tuple(stored), ((0, head),))


def seal(skeleton: Skeleton, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
    """Nothing: a safetensors file has no checksums."""
    return ()


def open_with_library(path: str) -> Mapping[str, Any]:
    """The tensors that the safetensors library finds."""
    from convsvc.formats.witnesses import open_safetensors

    return open_safetensors(path)


def _encode_header(header: Mapping[str, Any], align: int) -> bytes:
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TargetError("a tensor's name cannot be written as UTF-8", facts=[str(error)]) from None
    size = -(-(8 + len(text)) // align) * align - 8
    if size > MAX_HEADER_BYTES:
        raise TargetError(f"{len(header)} tensors need a header of {size} bytes, safetensors allows {MAX_HEADER_BYTES}")
    return size.to_bytes(8, "little") + text.ljust(size)


def _read_header(file: RegularFile) -> tuple[bytes, str]:
    """The header's bytes and their digest."""
    head = file.read(0, min(HEAD_BYTES, file.size_bytes), "the header")
    size = int.from_bytes(head[:8], "little")
    if not looks_like(head):
        what, do = describe(head)
        raise FormatError(f"{file.path} is not a safetensors file, it is {what}", do=do)
    raw = file.read(8, size, "the header")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_HEADER_VALUES:
        raise FormatError(f"the header of {file.path} has over {MAX_HEADER_VALUES} values")
    return raw, f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _plain_header(raw: bytes, data_start: int, size_bytes: int) -> tuple[Mapping[str, str], tuple[StoredTensor, ...]] | None:
    """Metadata and tensors of a header that is right to the last character and as the library writes it; None where JSON must be asked.

    A large model has half a million entries: taken apart as text they take a third of what they take as JSON. Entries must make up all of
    the text, one after the other, and their tensors all of the data.
    """
    try:
        text = raw.decode().rstrip(" ")
        metadata, at = _plain_metadata(text)
    except ValueError:
        return None
    columns = tuple(zip(*_ENTRY.findall(text, at), strict=True))
    if not columns or "\\" in text:
        return None
    names, said, starts, stops = columns
    count = len(names)
    characters = count * _ENTRY_CHARACTERS + sum([sum(map(len, column)) for column in columns])
    if at + characters + 1 != len(text) or text[-1] != "}" or text.count("{") != count + 1 + (at > 0):
        return None
    if starts != ("0", *stops[:-1]) or len(set(names)) != count or _METADATA in names:
        return None
    kinds = list(map(_kind, said))
    places = list(accumulate([size for _, _, size in kinds], initial=data_start))
    if places[1:] != [data_start + int(stop) for stop in stops] or places[-1] != size_bytes:
        return None
    stored = stored_tensors([(name, dtype, shape, at) for name, (dtype, shape, _), at in zip(names, kinds, places, strict=False)])
    return metadata, stored


def _plain_metadata(text: str) -> tuple[Mapping[str, str], int]:
    """A header's metadata, where that comes first, and where what comes after it begins. Raises ValueError."""
    head = f'{{"{_METADATA}":'
    if not text.startswith(head + "{"):
        return {}, 0
    end = text.index("}") + 1
    metadata = json.loads(text[len(head) : end], object_pairs_hook=_without_duplicates)
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} is not of strings")
    return metadata, end


@lru_cache(maxsize=4096)
def _kind(said: str) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape and bytes of a tensor, from a header's words (`U8","shape":[2,3`); -1 bytes of one that there cannot be."""
    dtype, _, shape = said.partition('","shape":[')
    try:
        sizes = tuple(json.loads(f"[{shape}]"))
    except ValueError:
        return dtype, (), -1
    return dtype, sizes, _size_bytes(dtype, sizes)


def _checked_header(path: str, raw: bytes) -> dict[str, Any]:
    """The header's JSON, an object. Raises FormatError."""
    try:
        header = _parsed(raw)
        "".join(header).encode()  # a lone surrogate is JSON, but no name that anybody could write or print
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header of {path} is not valid JSON", facts=[str(error)], do=_AGAIN) from None
    if not isinstance(header, dict):
        raise FormatError(f"the header of {path} is not a JSON object", do=_AGAIN)
    return header


def _parsed(raw: bytes) -> Any:
    """A header's JSON. Raises ValueError where a name occurs twice in an object: the second would hide the first.

    A right header has five strings for each tensor, and without escapes two quotes for each string. Where there are more quotes,
    something is hidden or the header is wrong anyway; only then is every object looked at by itself, which takes three times as long.
    """
    text = raw.decode()
    header = json.loads(text)
    if isinstance(header, dict) and b"\\" not in raw:
        metadata = header.get(_METADATA)
        about = 1 + 2 * len(metadata) if isinstance(metadata, dict) else 0
        if raw.count(b'"') == 2 * (5 * (len(header) - (about > 0)) + about):
            return header
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} occurs twice")
    return found


def _checked_metadata(path: str, metadata: Any) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{_METADATA} of {path} is not an object of strings", do=_AGAIN)
    return metadata


def _checked_tensors(file: RegularFile, header: dict[str, Any], data_start: int) -> tuple[StoredTensor, ...]:
    spans: list[tuple[int, int, StoredTensor]] = []
    faults: list[str] = []
    data_bytes = file.size_bytes - data_start
    for name, entry in header.items():
        plain = _plain_entry(entry)
        fault = None if plain and plain[3] <= data_bytes else _entry_fault(entry, data_bytes)
        if fault:
            faults.append(f"{name}: {fault}")
            continue
        dtype, shape, start, stop = plain or _stated(entry)
        spans.append((start, stop, StoredTensor(name, dtype, shape, data_start + start)))
    spans.sort(key=itemgetter(0, 1))
    faults += [] if faults else _cover_faults(spans, data_bytes)
    if faults:
        shown = faults[:_SHOWN_FAULTS]
        shown += [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        raise FormatError(f"the header of {file.path} contradicts itself or the file", facts=shown, do=_AGAIN)
    return tuple(tensor for _, _, tensor in spans)


def _plain_entry(entry: Any) -> tuple[str, tuple[int, ...], int, int] | None:
    """An entry's dtype, shape, start and stop, where a glance shows that they are right; None where `_entry_fault` must look.

    A header of a large model has half a million, of which few shapes differ.
    """
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if len(entry) == 3 and type(start) is int and type(stop) is int and start >= 0 and {*map(type, shape)} <= _INT:
            key = tuple(shape)
            if _size_bytes(dtype, key) == stop - start:
                return dtype, key, start, stop
    except (TypeError, ValueError, KeyError):
        pass
    return None


@lru_cache(maxsize=4096)
def _size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; -1 of one that there cannot be."""
    return prod(shape) * SIZES[dtype] if dtype in SIZES and _are_counts(list(shape)) else -1


def _entry_fault(entry: Any, data_bytes: int) -> str | None:
    """What is wrong with one tensor's entry, in words; None if nothing is."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "its entry is not an object of dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        return f"unknown dtype {str(dtype)[:40]!r}; known are {', '.join(sorted(SIZES))}"
    if not _are_counts(shape):
        return "its shape is not a list of counts"
    if not _are_counts(offsets) or len(offsets) != 2:
        return "its data_offsets are not two counts"
    return _place_fault(dtype, shape, offsets, data_bytes)


def _stated(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    return entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]


def _place_fault(dtype: str, shape: list[int], offsets: list[int], data_bytes: int) -> str | None:
    start, stop = offsets
    if start > stop or stop > data_bytes:
        return f"its data_offsets [{start}, {stop}] are not within the file's {data_bytes} bytes of data (is the file cut short?)"
    size = prod(shape) * SIZES[dtype]
    if size != stop - start:
        return f"{dtype} {shape} takes {size} bytes, its data_offsets [{start}, {stop}] span {stop - start}"
    return None


def _are_counts(value: Any) -> bool:
    # Up to 2**53, far over any file and safe in every JSON reader; `type`, since True is an int as well.
    return isinstance(value, list) and len(value) <= 64 and all(type(item) is int and 0 <= item <= 2**53 for item in value)


def _cover_faults(spans: Sequence[tuple[int, int, StoredTensor]], data_bytes: int) -> list[str]:
    """Where the tensors, sorted by their offsets, overlap, leave a hole, or do not reach the end."""
    edges = [0, *[stop for _, stop, _ in spans]]
    if edges == [*[start for start, _, _ in spans], data_bytes]:
        return []
    faults: list[str] = []
    if spans and spans[0][0] > 0:
        faults.append(f"{spans[0][0]} bytes before {spans[0][2].name} belong to no tensor")
    for (_, stop, before), (start, _, after) in pairwise(spans):
        if start < stop:
            faults.append(f"{before.name} and {after.name} overlap by {stop - start} bytes")
        elif start > stop:
            faults.append(f"{start - stop} bytes between {before.name} and {after.name} belong to no tensor")
    end = spans[-1][1] if spans else 0
    if not faults and end != data_bytes:
        faults.append(f"the tensors end at byte {end} of the data, the file has {data_bytes}")
    return faults
