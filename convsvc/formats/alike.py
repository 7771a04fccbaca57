"""Files that are alike: the rank files of a converted checkpoint say the same of their tensors, a thousand times over.

What such a file holds follows from its pickle and its table of records alone. Running a pickle takes milliseconds, comparing
it with the last ones microseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from convsvc.formats.base import StoredTensor

# Ranks of one stage, and of the next: more differ at once only where files are read in no order.
MOST_KEPT = 8
# Of a pickle that is kept; that of a rank file has some 50 KB.
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds, whatever it is called: its tensors, and the tree they stand in. Shared by files: nobody changes it."""

    tensors: tuple[StoredTensor, ...]
    tree: Mapping[str, Any]


class Alike:
    """The contents met last, by what they follow from. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, Hashable], Content] = OrderedDict()
        self._lock = Lock()

    def find(self, pickle: bytes, records: Hashable) -> Content | None:
        with self._lock:
            found = self._kept.get((pickle, records))
            if found is not None:
                self._kept.move_to_end((pickle, records))
            return found

    def keep(self, pickle: bytes, records: Hashable, content: Content) -> None:
        if len(pickle) > MOST_BYTES:
            return
        with self._lock:
            self._kept[pickle, records] = content
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
