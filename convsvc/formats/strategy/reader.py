"""Reading a strategy file: by its name it is JSON or binary, as MindSpore has it (_parallel_serialization.py, _build_searched_strategy)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

from convsvc.errors import FormatError
from convsvc.formats.regular_file import AnyPath, open_regular
from convsvc.formats.strategy.binary import parse_binary
from convsvc.formats.strategy.json_form import parse_json
from convsvc.formats.strategy.records import Strategy

# Merged over all stages of the largest models a few MiB.
MAX_STRATEGY_BYTES = 32 << 20


def read_strategy(path: AnyPath) -> Strategy:
    """What a strategy file says. Raises FormatError if it is none, StorageError where the disk fails."""
    (strategy,) = read_strategies([path])
    return strategy


def read_strategies(paths: Iterable[AnyPath]) -> Iterator[Strategy]:
    """What each file says, in their order. Every rank has one, and those of a stage are mostly the same bytes: these are parsed once."""
    known: dict[bytes, Strategy] = {}
    for path in paths:
        data, name = _read(path)
        key = sha256(data).digest()
        if key not in known:
            known[key] = (parse_json if name.endswith(".json") else parse_binary)(data, name)
        yield known[key]


def _read(path: AnyPath) -> tuple[bytes, str]:
    with open_regular(path) as file:
        if file.size_bytes > MAX_STRATEGY_BYTES:
            raise FormatError(
                f"{file.path} is too large for a strategy file", facts=[f"{file.size_bytes} bytes; at most {MAX_STRATEGY_BYTES}"]
            )
        return file.read(0, file.size_bytes, "the strategy"), file.path
