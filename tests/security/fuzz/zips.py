"""Zip files whose directory lies: fields overwritten, entries doubled, left out, swapped, widened."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from random import Random

from tests.security.fuzz.mutate import NUMBERS, change_bytes

# signature -> (offset, size) of the fields that say where and how much
FIELDS: Mapping[bytes, Sequence[tuple[int, int]]] = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((6, 2), (8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\x06\x06": ((4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\x06\x07": ((4, 4), (8, 8), (16, 4)),
}
WORDS = (
    *FIELDS,
    b"\xff" * 4,
    b"\xff" * 8,
    bytes(8),
    b"archive/data.pkl",
    b"archive/data/0",
    b"\x01\x00\x18\x00" + bytes(24),
    b"\x01\x00\x08\x00",
)


def change_zip(rng: Random, zips: Sequence[bytes]) -> bytes:
    """A zip file with lies in its structures; one in five with changed bytes anywhere."""
    data = rng.choice(zips)
    for _ in range(rng.randrange(1, 4)):
        data = _lie(rng, data) if rng.random() < 0.85 else _entries(rng, data)
    return change_bytes(rng, data, zips, WORDS) if rng.random() < 0.2 else data


def pack(records: Mapping[str, bytes], extra: bytes = b"") -> bytes:
    """A zip of stored records. Checksums are 0: readers of headers do not compare them."""
    parts: list[bytes] = []
    directory: list[bytes] = []
    at = 0
    for name, data in records.items():
        raw, size = name.encode(), len(data)
        parts += [struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, size, size, len(raw), 0), raw, data]
        central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, len(raw), len(extra), 0, 0, 0, 0, at)
        directory += [central, raw, extra]
        at += 30 + len(raw) + size
    listed = b"".join(directory)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(records), len(records), len(listed), at, 0)
    return b"".join(parts) + listed + end


def _places(data: bytes, signature: bytes) -> list[int]:
    found, at = [], data.find(signature)
    while at >= 0:
        found.append(at)
        at = data.find(signature, at + 4)
    return found


def _lie(rng: Random, data: bytes) -> bytes:
    signature = rng.choice(list(FIELDS))
    places = _places(data, signature)
    if not places:
        return data
    offset, size = rng.choice(FIELDS[signature])
    at = rng.choice(places) + offset
    old = int.from_bytes(data[at : at + size], "little")
    new = (
        old + rng.choice((-64, -8, -1, 1, 8, 64)) if rng.random() < 0.4 else rng.choice(NUMBERS) if rng.random() < 0.7 else len(data) - old
    )
    return data[:at] + (new % 256**size).to_bytes(size, "little") + data[at + size :]


def _entries(rng: Random, data: bytes) -> bytes:
    """Directory entries doubled, left out or swapped; the count in the end record follows half of the time."""
    places, ends = _places(data, b"PK\x01\x02"), _places(data, b"PK\x05\x06")
    if len(places) < 2 or not ends or ends[-1] < places[-1]:
        return data
    stop = min((at for at in _places(data, b"PK\x06\x06") if at > places[-1]), default=ends[-1])
    entries = [data[start:end] for start, end in zip(places, [*places[1:], stop], strict=True)]
    kind, at = rng.randrange(3), rng.randrange(len(entries))
    if kind == 0:
        entries.append(entries[at])
    elif kind == 1:
        del entries[at]
    else:
        entries[at], entries[0] = entries[0], entries[at]
    tail = bytearray(data[stop:])
    if rng.random() < 0.5 and stop == ends[-1]:
        struct.pack_into("<2HL", tail, 8, len(entries), len(entries), sum(map(len, entries)))
    return data[: places[0]] + b"".join(entries) + bytes(tail)
