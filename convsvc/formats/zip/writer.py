"""A zip file of stored records whose places are fixed before its content exists.

Everything but the checksums is known from names and sizes: `lay_out` gives every record an aligned place, `local_header` and
`directory` are the bytes around the data. Of a record that is streamed the checksum stands behind its data (`descriptor`), as in what
torch.save writes: nothing before the data depends on it. Structures after APPNOTE.TXT 6.3; zip64 forms only where a number needs them.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

MAX_ALIGN = 32768  # the padding must fit an extra field of at most 65535 bytes

_LOCAL_BYTES, _CENTRAL_BYTES, _END_BYTES, _END64_BYTES, _LOCATOR_BYTES = 30, 46, 22, 56, 20
_NO_FIELD = 0xFFFFFFFF  # "see the zip64 extra field"
_NO_COUNT = 0xFFFF
_VERSION, _VERSION64, _UNIX = 20, 45, 3 << 8
_UTF8_NAME, _DESCRIPTOR = 0x0800, 0x0008
_DATE = 0x0021  # 1980-01-01, the earliest: the same input gives the same file
_PADDING = 0x4246  # "FB", the extra field with which torch aligns its records (caffe2/serialize/inline_container.cc)
_REGULAR_FILE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """A record's place: its header begins at `header_offset`, its `size_bytes` bytes at `data_offset`. `crc` may come later.

    One that is `streamed` has a descriptor behind its data, which says size and checksum.
    """

    name: str
    size_bytes: int
    header_offset: int
    data_offset: int
    crc: int = 0
    streamed: bool = False

    @property
    def data_stop(self) -> int:
        return self.data_offset + self.size_bytes

    @property
    def stop(self) -> int:
        """Where the next record's header begins."""
        return self.data_stop + (len(descriptor(self)) if self.streamed else 0)

    def with_crc(self, crc: int) -> RecordPlace:
        return replace(self, crc=crc)


def lay_out(records: Iterable[tuple[str, int, int]], streamed: Collection[str] = ()) -> tuple[RecordPlace, ...]:
    """Places for records given as (name, size in bytes, alignment), one after the other from byte 0; names of those to stream. Pure.

    >>> [(slot.header_offset, slot.data_offset) for slot in lay_out([("a", 5, 64), ("b", 5, 64)])]
    [(0, 64), (69, 128)]
    """
    slots: list[RecordPlace] = []
    at = 0
    for name, size_bytes, align in records:
        # Four bytes is the least that a padding field takes, even with nothing in it.
        least = at + _LOCAL_BYTES + len(name.encode()) + len(_wide_sizes(size_bytes)) + 4
        slots.append(RecordPlace(name, size_bytes, at, -(-least // align) * align, streamed=name in streamed))
        at = slots[-1].stop
    return tuple(slots)


def local_header(slot: RecordPlace) -> bytes:
    """The bytes from a record's `header_offset` up to its data. Pure."""
    name, wide = slot.name.encode(), _wide_sizes(slot.size_bytes)
    padding = slot.data_offset - slot.header_offset - _LOCAL_BYTES - len(name) - len(wide) - 4
    crc, size = (0, 0) if slot.streamed else (slot.crc, slot.size_bytes)
    if wide:
        size, wide = _NO_FIELD, struct.pack("<2H2Q", 1, 16, size, size)
    extra = wide + struct.pack("<2H", _PADDING, padding) + b"Z" * padding
    version = _VERSION64 if wide else _VERSION
    fields = (b"PK\x03\x04", version, _flags(slot), 0, 0, _DATE, crc, size, size, len(name), len(extra))
    return struct.pack("<4s5H3L2H", *fields) + name + extra


def descriptor(slot: RecordPlace) -> bytes:
    """The bytes behind a streamed record's data. Pure."""
    sizes = "2Q" if slot.size_bytes >= _NO_FIELD else "2L"
    return struct.pack(f"<4sL{sizes}", b"PK\x07\x08", slot.crc, slot.size_bytes, slot.size_bytes)


def directory(slots: Sequence[RecordPlace]) -> bytes:
    """The central directory and the end records, which follow the last record. Pure."""
    central = b"".join(_central(slot) for slot in slots)
    start, count = _end_of(slots), len(slots)
    end64 = b""
    if _is_wide(start, len(central), count):
        versions = (_UNIX | _VERSION64, _VERSION64)
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, *versions, 0, 0, count, count, len(central), start)
        end64 += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + len(central), 1)
    shown = min(count, _NO_COUNT)
    sizes = (min(len(central), _NO_FIELD), min(start, _NO_FIELD))
    return central + end64 + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, shown, shown, *sizes, 0)


def directory_bytes(slots: Sequence[RecordPlace]) -> int:
    """The size of `directory(slots)`, which does not depend on checksums. Pure."""
    central = sum(_CENTRAL_BYTES + len(slot.name.encode()) + len(_wide_central(slot)) for slot in slots)
    wide = _END64_BYTES + _LOCATOR_BYTES if _is_wide(_end_of(slots), central, len(slots)) else 0
    return central + wide + _END_BYTES


def _flags(slot: RecordPlace) -> int:
    return _UTF8_NAME | _DESCRIPTOR if slot.streamed else _UTF8_NAME


def _end_of(slots: Sequence[RecordPlace]) -> int:
    return slots[-1].stop if slots else 0


def _is_wide(start: int, size: int, count: int) -> bool:
    return count >= _NO_COUNT or start >= _NO_FIELD or size >= _NO_FIELD


def _wide_sizes(size_bytes: int) -> bytes:
    """The zip64 extra field of a local header: both sizes, where they do not fit 32 bits."""
    return struct.pack("<2H2Q", 1, 16, size_bytes, size_bytes) if size_bytes >= _NO_FIELD else b""


def _wide_central(slot: RecordPlace) -> bytes:
    """The zip64 extra field of a directory entry: only those numbers which do not fit 32 bits."""
    numbers = [slot.size_bytes] * 2 if slot.size_bytes >= _NO_FIELD else []
    numbers += [slot.header_offset] if slot.header_offset >= _NO_FIELD else []
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _central(slot: RecordPlace) -> bytes:
    name, wide = slot.name.encode(), _wide_central(slot)
    version = _VERSION64 if wide else _VERSION
    size, header_offset = min(slot.size_bytes, _NO_FIELD), min(slot.header_offset, _NO_FIELD)
    fields = (b"PK\x01\x02", _UNIX | version, version, _flags(slot), 0, 0, _DATE, slot.crc, size, size, len(name), len(wide), 0, 0, 0)
    return struct.pack("<4s6H3L5H2L", *fields, _REGULAR_FILE, header_offset) + name + wide
