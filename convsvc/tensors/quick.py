"""Named tuples made in a third of the time: the plan of a trillion parameters has a million of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar, cast

Record = TypeVar("Record")


class _Make(Protocol):
    def __call__(self, kind: type[Record], values: Iterable[Any], /) -> Record: ...


# All values in the order of the kind's fields, those with a default too: nobody counts them.
quick = cast(_Make, tuple.__new__)
