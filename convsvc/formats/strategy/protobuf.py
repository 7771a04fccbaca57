"""Protocol buffers' wire format, as far as a strategy file needs it: bounded to read, and the same bytes for the same values to write.

After https://protobuf.dev/programming-guides/encoding. Places are bytes from the start of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from convsvc.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_FIELD_NUMBER = (1 << 29) - 1


class Field(NamedTuple):
    """A field of a message: of a VARINT `value` is the number, of all others their bytes are at `start:stop`. `at` is where it begins."""

    number: int
    kind: int
    value: int
    start: int
    stop: int
    at: int


class Message(NamedTuple):
    """A message within a file: the bytes `start:stop` of `data`. `what` names it in errors, `path` the file."""

    data: bytes
    start: int
    stop: int
    what: str
    path: str

    def fields(self) -> Iterator[Field]:
        """Its fields in order. Raises FormatError where bytes are no field, or one reaches beyond the message."""
        at = self.start
        while at < self.stop:
            tag, after = self._varint(at, "a field's tag")
            number, kind, value, start = tag >> 3, tag & 7, 0, after
            if not 0 < number <= _MAX_FIELD_NUMBER:
                raise self.wrong(at, "a field's number", f"{number}")
            if kind == VARINT:
                value, after = self._varint(after, f"field {number}, a varint")
            elif kind == BYTES:
                size, start = self._varint(after, f"the length of field {number}")
                after = start + size
            elif kind in (FIXED64, FIXED32):
                after = start + (8 if kind == FIXED64 else 4)
            else:
                raise self.wrong(at, f"field {number} as varint, bytes or fixed", f"wire type {kind}")
            if after > self.stop:
                raise self.wrong(at, f"field {number} of {after - start} bytes", f"{self.stop - start} bytes left in {self.what}")
            yield Field(number, kind, value, start, after, at)
            at = after

    def within(self, field: Field, what: str) -> Message:
        """The message that a field holds. Raises FormatError if it holds none."""
        if field.kind != BYTES:
            raise self.wrong(field.at, f"{what} as a message", f"wire type {field.kind}")
        return Message(self.data, field.start, field.stop, what, self.path)

    def text(self, field: Field, what: str, most_bytes: int) -> str:
        """The text that a field holds, not empty. Raises FormatError if it holds none, or a longer one."""
        if field.kind != BYTES or not 0 < field.stop - field.start <= most_bytes:
            raise self.wrong(field.at, f"{what} of 1 to {most_bytes} bytes", f"wire type {field.kind}, {field.stop - field.start} bytes")
        try:
            return self.data[field.start : field.stop].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong(field.start, f"{what} in UTF-8", f"byte {self.data[field.start + error.start]:#x}") from error

    def number(self, field: Field, what: str) -> int:
        """The int32 that a field holds; a negative one is sign-extended to 64 bits. Raises FormatError if it holds none."""
        if field.kind != VARINT:
            raise self.wrong(field.at, f"{what} as a varint", f"wire type {field.kind}")
        return self._int32(field.value, field.at, what)

    def numbers(self, what: str, most: int) -> tuple[int, ...]:
        """All int32 of a message whose only field (1) is a list of them, packed or not. Raises FormatError if it is longer than `most`."""
        found: list[int] = []
        for field in self.fields():
            if field.number != 1:
                continue
            if field.kind == BYTES:
                at = field.start
                while at < field.stop and len(found) <= most:
                    value, after = self._varint(at, what)
                    if after > field.stop:
                        raise self.wrong(at, f"{what} packed", f"a varint that reaches beyond byte {field.stop}")
                    found.append(self._int32(value, at, what))
                    at = after
            else:
                found.append(self.number(field, what))
            if len(found) > most:
                raise self.wrong(field.at, f"at most {most} numbers in {what}", "more")
        return tuple(found)

    def wrong(self, at: int, expected: str, given: str) -> FormatError:
        return FormatError(
            f"{self.path} is no MindSpore strategy file, or is damaged",
            facts=[f"byte {at}, in {self.what}: expected {expected}, found {given}"],
            do="copy the file again; where it is JSON, its name must end .json",
            details={"file": self.path, "offset": at},
        )

    def _varint(self, at: int, what: str) -> tuple[int, int]:
        value = shift = 0
        for place in range(at, min(at + _MAX_VARINT_BYTES, self.stop)):
            byte = self.data[place]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, place + 1
        left = self.stop - at
        raise self.wrong(at, f"{what} of at most {_MAX_VARINT_BYTES} bytes", f"{left} bytes left" if left < _MAX_VARINT_BYTES else "more")

    def _int32(self, value: int, at: int, what: str) -> int:
        signed = value - (1 << 64) if value >= 1 << 63 else value - (1 << 32) if 1 << 31 <= value < 1 << 32 else value
        if not -(1 << 31) <= signed < 1 << 31:
            raise self.wrong(at, f"{what} in 32 bits", f"{signed}")
        return signed


def varint(value: int) -> bytes:
    """A number as protobuf writes it; negative ones in 10 bytes.

    >>> varint(300).hex(), varint(-1).hex()
    ('ac02', 'ffffffffffffffffff01')
    """
    value &= (1 << 64) - 1
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(value)) + value
