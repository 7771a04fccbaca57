"""Changes to bytes and to JSON values: the numbers, names and nestings at which readers break. The `Random` given decides it all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MOST_BYTES = 1 << 16
NUMBERS = (
    0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63,
    2**64 - 1,
)  # fmt: skip
TEXTS = (
    "", "0", "-1", "1e9", "1,2", "abc", "a" * 300, "\x00", "\ud800", "__proto__", "constructor", "__class__", "../../etc/passwd",
    "/dev/zero", "é", "\u202e", "F32", "BF16", "null", "nan", "{layer}", "%s", "model.layers.0.", "release", "9" * 400,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, -1, -2, -(10**18), 10**18, 10**30, 10**400, 0.5, 4.0, -0.0, 1e18, 1e308, math.inf, -math.inf, math.nan, True, False, None,
    *TEXTS, [], {}, [[]], [0], [None], [True], ["x"], {"a": {}}, {"": ""}, [[0]], [10**18], list(range(50)), {"layer": "Mamba2"},
)  # fmt: skip


def change_bytes(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """`data` with one to five changes; `words` are what the format's parser looks for, `others` what to splice with."""
    for _ in range(1 + min(int(rng.expovariate(0.9)), 4)):
        data = rng.choice(_CHANGES)(rng, data, others, words)
    return data[:MOST_BYTES]


def _flip(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([(data[at] if data else 0) ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _insert(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + (rng.choice(words) if words and rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 9))) + data[at:]


def _overwrite(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    new = rng.choice(words) if words and rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 9))
    return data[:at] + new + data[at + len(new) :]


def _number(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    return data[:at] + (rng.choice(NUMBERS) % 256**size).to_bytes(size, rng.choice(("little", "little", "big"))) + data[at + size :]


def _cut(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    start, stop = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:start] + data[min(stop, start + rng.choice((1, 4, 16, 1 << 20))) :]


def _end(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _repeat(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    part = data[at : at + rng.randrange(1, 33)]
    times = rng.choice((1, 2, 3, 10, 100, 1000))
    return (data[:at] + part * times + data[at:])[:MOST_BYTES]


def _splice(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _flip, _insert, _insert, _overwrite, _overwrite, _number, _number, _number, _cut, _end, _repeat, _splice,
)  # fmt: skip


def change_value(rng: Random, value: Any, names: Sequence[str]) -> Any:
    """A JSON value with one to four of its members changed; `names` are keys that the reader asks for. `value` is left as it is."""
    for _ in range(1 + min(int(rng.expovariate(1.0)), 3)):
        value = _change_member(rng, value, names)
    return value


def _change_member(rng: Random, value: Any, names: Sequence[str]) -> Any:
    """Goes down to a random member and gives back the containers on the way as copies."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.85:
            return {**value, key: _change_member(rng, value[key], names)}
        return _change_keys(rng, value, key, names)
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *_change_item(rng, value[at], names), *value[at + 1 :]]
    return _other(rng, value)


def _change_keys(rng: Random, value: dict[str, Any], key: str, names: Sequence[str]) -> dict[str, Any]:
    rest = {name: item for name, item in value.items() if name != key}
    if rng.random() < 0.4:
        return rest
    name = rng.choice(names) if names and rng.random() < 0.8 else rng.choice(TEXTS)
    return {**value, name: rng.choice(VALUES)} if rng.random() < 0.7 else {**rest, name: value[key]}


def _change_item(rng: Random, item: Any, names: Sequence[str]) -> list[Any]:
    kind = rng.randrange(4)
    return [] if kind == 0 else [item, item] if kind == 1 else [_change_member(rng, item, names)]


def _other(rng: Random, value: Any) -> Any:
    kind = rng.random()
    if kind < 0.2 and type(value) is int:
        return value + rng.choice((-2, -1, 1, 2)) if rng.random() < 0.6 else value * rng.choice((-1, 0, 2, 1000))
    if kind < 0.25:
        return deep(rng.choice((10, 120, 200)), rng.choice((list, dict)), value)
    if kind < 0.3:
        return [value] * rng.choice((1, 2, 100))
    return str(value) if kind < 0.33 else rng.choice(VALUES)


def deep(levels: int, kind: type, value: Any) -> Any:
    """`value` under so many lists or objects."""
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


def as_text(rng: Random, value: Any, words: Sequence[bytes]) -> bytes:
    """JSON, rarely with a key twice, or with changed bytes."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    kind = rng.random()
    if kind < 0.05 and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return json.dumps(value)[:-1].encode() + b"," + json.dumps({key: rng.choice(VALUES)})[1:].encode()
    return change_bytes(rng, text, (), words) if kind < 0.15 else text
