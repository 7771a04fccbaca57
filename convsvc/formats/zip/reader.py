"""A zip file's directory, as far as a checkpoint needs it: stored records and where their bytes lie.

Our own reader rather than `zipfile`: the amount read is bounded, each record's place is checked against its local header and
against all others, and what is wrong is said in a checkpoint's terms. Structures after APPNOTE.TXT 6.3 (section 4.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple, Protocol

from convsvc.errors import FormatError
from convsvc.formats.regular_file import Readable

# 64 MiB of directory is about a million records; torch.save writes one for every storage.
MAX_DIRECTORY_BYTES = 64 << 20

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_LOCAL_BYTES, _CENTRAL_BYTES, _END_BYTES, _END64_BYTES, _LOCATOR_BYTES = 30, 46, 22, 56, 20
_MAX_COMMENT_BYTES = 0xFFFF
_NO_FIELD = 0xFFFFFFFF  # "see the zip64 extra field"
# signature, made by, needed, flags, method, time, date, crc, packed size, size, name, extra and comment bytes, disk, 2 x attributes, offset
_CENTRAL_FIELDS = struct.Struct("<4s6H3L5H2L")
_AGAIN = "copy or download the file again, or save it again with torch.save"


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> object: ...


class Record(NamedTuple):
    """A record: `size_bytes` bytes from `data_offset` on; its local header begins at `header_offset`. `method` 0 is stored."""

    name: str
    header_offset: int
    data_offset: int
    size_bytes: int
    method: int


Span = tuple[int, int]


class _Entry(NamedTuple):
    """A line of the central directory."""

    name: bytes
    header_offset: int
    size_bytes: int
    method: int


def read_directory(file: Readable, digest: Digest | None = None) -> Mapping[str, Record]:
    """All records of a zip file by name, in the directory's order; `digest` is given the directory's bytes.

    Raises FormatError where the directory is missing (a file cut short has none), or a record is encrypted, named twice, outside
    the file or overlapping another.
    """
    start, size, count = _find_directory(file)
    if size > MAX_DIRECTORY_BYTES:
        raise _damaged(file, f"its directory has {size} bytes, at most {MAX_DIRECTORY_BYTES} are read")
    directory = file.read(start, size, "the zip directory")
    if digest is not None:
        digest.update(directory)
    records: dict[str, Record] = {}
    for entry in _entries(file, directory, count):
        record = _locate(file, entry, start)
        if record.name in records:
            raise _damaged(file, f"the record {record.name!r} occurs twice")
        records[record.name] = record
    _check_disjoint(file, records)
    return records


def check_stored(file: Readable, records: Mapping[str, Record]) -> None:
    """Raises FormatError naming the first record that is compressed: its tensors have no place in the file."""
    for record in records.values():
        if record.method != 0:
            raise FormatError(
                f"{file.path} is compressed",
                facts=[f"the record {record.name!r} is packed with zip method {record.method}; torch.save only stores (method 0)"],
                do="unpack it and pack it again with `zip -0`, or load it with torch and save it again",
            )


class Spans(NamedTuple):
    """Bytes of a zip file, as (start, stop): those from which its records follow, `directory` less its checksums among them."""

    fixed: tuple[Span, ...]
    directory: Span


def find_spans(file: Readable, records: Mapping[str, Record]) -> Spans | None:
    """Which bytes of a sound zip file `read_directory` looks at, but for checksums: another of this size that has them has these records.

    None where its end is not as writers have it: no comment, nothing between the directory and the end records.
    """
    start, size, _ = _find_directory(file)
    limit = file.size_bytes - _END_BYTES
    if _find_end(file, _END_BYTES)[2] != 0 or start + size not in (limit, limit - _LOCATOR_BYTES - _END64_BYTES):
        return None
    directory = file.read(start, size, "the zip directory")
    fixed: list[Span] = []
    for record in records.values():
        at = record.header_offset
        # All of a local header is passed over but its signature, its name, and how long name and extra field are.
        fixed += [(at, at + 4), (at + 26, at + _LOCAL_BYTES + len(record.name.encode()))]
    at = first = 0
    while at < size:
        fixed.append((start + first, start + at + 16))
        first = at + 20  # behind the CRC-32
        at += _CENTRAL_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))
    fixed.append((start + first, file.size_bytes))
    return Spans(tuple(fixed), (start, start + size))


def _find_directory(file: Readable) -> tuple[int, int, int]:
    """Offset, size in bytes, and number of entries of the central directory."""
    tail_start, tail, at = _find_end(file, _END_BYTES)  # nearly always, as nearly no zip has a comment
    if at < 0:
        tail_start, tail, at = _find_end(file, _END_BYTES + _MAX_COMMENT_BYTES)
    if at < 0:
        raise _damaged(file, "it begins as a zip file but has no directory at its end; it is cut short")
    disk, disk_of_directory, _, count, size, start = struct.unpack("<4H2L", tail[at + 4 : at + 20])
    limit = tail_start + at
    locator = file.read(limit - _LOCATOR_BYTES, _LOCATOR_BYTES, "the zip64 locator") if limit >= _LOCATOR_BYTES else b""
    if locator[:4] == _LOCATOR:
        limit, disk, disk_of_directory, count, size, start = _read_end64(file, locator, limit - _LOCATOR_BYTES)
    if disk or disk_of_directory:
        raise _damaged(file, "it is one of several parts of a split zip")
    if start + size > limit or count * _CENTRAL_BYTES > size:
        raise _damaged(file, f"its directory ({count} records, {size} bytes at {start}) does not fit before its end at {limit}")
    return start, size, count


def _find_end(file: Readable, size_bytes: int) -> tuple[int, bytes, int]:
    """Where a file's last bytes begin, these bytes, and where in them the end record is; -1 for nowhere."""
    tail_start = max(0, file.size_bytes - size_bytes)
    tail = file.read(tail_start, file.size_bytes - tail_start, "the end of the zip file")
    at = tail.rfind(_END)
    while at >= 0 and not _ends_with(tail, at):
        at = tail.rfind(_END, 0, at)
    return tail_start, tail, at


def _ends_with(tail: bytes, at: int) -> bool:
    """Whether the end record at `at`, with its comment, is the last thing of the file; else those bytes are data."""
    return len(tail) - at >= _END_BYTES and at + _END_BYTES + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)


def _read_end64(file: Readable, locator: bytes, limit: int) -> tuple[int, int, int, int, int, int]:
    disk, end64_offset, _ = struct.unpack("<LQL", locator[4:])
    if end64_offset + _END64_BYTES > limit:
        raise _damaged(file, f"its zip64 end record is said to be at {end64_offset}, after its locator at {limit}")
    end64 = file.read(end64_offset, _END64_BYTES, "the zip64 end record")
    if end64[:4] != _END64:
        raise _damaged(file, f"there is no zip64 end record at {end64_offset}")
    disk_here, disk_of_directory, _, count, size, start = struct.unpack("<2L4Q", end64[16:56])
    return end64_offset, disk | disk_here, disk_of_directory, count, size, start


def _entries(file: Readable, directory: bytes, count: int) -> Iterator[_Entry]:
    at = 0
    for number in range(count):
        head = directory[at : at + _CENTRAL_BYTES]
        if len(head) < _CENTRAL_BYTES or head[:4] != _CENTRAL:
            raise _damaged(file, f"entry {number} of its directory is not an entry")
        fields = _CENTRAL_FIELDS.unpack(head)
        flags, method, packed, size, name_bytes, extra_bytes, comment_bytes = *fields[3:5], *fields[8:13]
        name_at = at + _CENTRAL_BYTES
        extra_at = name_at + name_bytes
        at = extra_at + extra_bytes + comment_bytes
        if at > len(directory):
            raise _damaged(file, f"entry {number} of its directory runs over its end")
        name = directory[name_at:extra_at]
        sizes = _widen(directory[extra_at : extra_at + extra_bytes], size, packed, fields[16])
        if sizes is None:
            raise _damaged(file, f"entry {number} of its directory has no zip64 sizes though it needs them")
        if flags & 0x0041:
            raise _damaged(file, f"the record {_shown(name)} is encrypted")
        if method == 0 and sizes[0] != sizes[1]:
            raise _damaged(file, f"the record {_shown(name)} is stored, yet has {sizes[0]} bytes in {sizes[1]}")
        yield _Entry(name, sizes[2], sizes[1], method)


def _widen(extra: bytes, *fields: int) -> tuple[int, ...] | None:
    """The fields (size, packed size, header offset), those that are 0xFFFFFFFF taken from the zip64 extra field, in this order."""
    if _NO_FIELD not in fields:
        return fields
    wide = _extra_field(extra, 0x0001)
    needed = fields.count(_NO_FIELD) * 8
    if wide is None or len(wide) < needed:
        return None
    numbers = iter(struct.unpack(f"<{needed // 8}Q", wide[:needed]))
    return tuple(next(numbers) if field == _NO_FIELD else field for field in fields)


def _extra_field(extra: bytes, wanted: int) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return None


def _locate(file: Readable, entry: _Entry, limit: int) -> Record:
    """The record with its place, which only the local header tells: its extra field may differ from the directory's."""
    wanted = _LOCAL_BYTES + len(entry.name)
    if entry.header_offset + wanted > limit:
        raise _damaged(file, f"the record {_shown(entry.name)} is said to begin at {entry.header_offset}, the directory is at {limit}")
    head = file.read(entry.header_offset, wanted, f"the header of the record {_shown(entry.name)}")
    name_bytes, extra_bytes = struct.unpack_from("<2H", head, 26)
    if head[:4] != _LOCAL or name_bytes != len(entry.name) or head[_LOCAL_BYTES:] != entry.name:
        raise _damaged(file, f"there is no header of the record {_shown(entry.name)} at {entry.header_offset}")
    data_offset = entry.header_offset + wanted + extra_bytes
    if data_offset + entry.size_bytes > limit:
        raise _damaged(file, f"the record {_shown(entry.name)} ends at {data_offset + entry.size_bytes}, over the directory at {limit}")
    return Record(_decoded(file, entry.name), entry.header_offset, data_offset, entry.size_bytes, entry.method)


def _check_disjoint(file: Readable, records: Mapping[str, Record]) -> None:
    ordered = sorted(records.values(), key=lambda record: record.header_offset)
    for before, after in pairwise(ordered):
        if before.data_offset + before.size_bytes > after.header_offset:
            raise _damaged(file, f"the records {before.name!r} and {after.name!r} overlap")


def _decoded(file: Readable, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _damaged(file, f"the record name {_shown(name)} is not UTF-8") from None


def _shown(name: bytes) -> str:
    return repr(name[:80].decode(errors="replace"))


def _damaged(file: Readable, fact: str) -> FormatError:
    return FormatError(f"{file.path} is not a sound zip file", facts=[fact], do=_AGAIN)
