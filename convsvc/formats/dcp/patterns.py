"""Items that are alike: tensors of one dtype and shape are torch files that differ in values and checksums alone.

Where an item's tensor lies follows from a few hundred of its bytes: the names and lengths in the headers of its records, its pickle, its
zip directory without the checksums. An item that has the bytes of one that was read is what that one was, without being taken apart;
that takes a third of the time, and of the hundred thousands of items that a large checkpoint has nearly all are so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from convsvc.formats.regular_file import Readable, RegularFile
from convsvc.formats.zip.reader import Record, Span, find_spans, read_directory

# Of a pickle and a directory of one tensor: what is larger is taken apart each time.
_MOST_BYTES = 1 << 14
# What lies between both ends of an item is read, too, where that is little.
_BETWEEN_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Pattern:
    """What items of one size must be like to have their tensor at `data_offset`; all offsets are an item's own.

    Their first `head_bytes` and what follows `tail_offset` are looked at, in the spans that `head` and `tail` pick.
    """

    size_bytes: int
    data_offset: int
    head_bytes: int
    tail_offset: int
    head: Callable[[bytes], Any]
    tail: Callable[[bytes], Any]
    heads: Any
    tails: Any
    directory_offset: int
    directory_stop: int

    def directory(self, file: RegularFile, first: int, name: str) -> bytes | None:
        """The zip directory of the item at byte `first` of a file; None where it is not alike, which its own reading judges.

        Raises FormatError where the file ends before, StorageError.
        """
        if self.tail_offset - self.head_bytes <= _BETWEEN_BYTES:
            whole = file.read(first, self.size_bytes, name)
            head, tail = whole[: self.head_bytes], whole[self.tail_offset :]
        else:
            head = file.read(first, self.head_bytes, name)
            tail = file.read(first + self.tail_offset, self.size_bytes - self.tail_offset, name)
        if self.head(head) != self.heads or self.tail(tail) != self.tails:
            return None
        return tail[self.directory_offset - self.tail_offset : self.directory_stop - self.tail_offset]


def pattern_of(item: Readable, data_offset: int) -> Pattern | None:
    """The pattern of a sound item whose tensor lies at `data_offset`; None where it is not as torch.save has it, or large."""
    records = read_directory(item)
    spans = find_spans(item, records)
    ordered = sorted(records.values(), key=lambda record: record.header_offset)
    data = next((record for record in ordered if record.data_offset == data_offset), None)
    if spans is None or data is None:
        return None
    decisive = [(0, 4), *spans.fixed, *(_body(record) for record in ordered if record.name.endswith(("/data.pkl", "/byteorder")))]
    stop = data.data_offset + data.size_bytes
    heads = _joined([span for span in decisive if span[1] <= data_offset])
    tails = _joined([span for span in decisive if span[0] >= stop])
    tail_offset = min([start for start, _ in tails], default=stop)
    looked_at = sum(b - a for a, b in (*heads, *tails))
    if looked_at != sum(b - a for a, b in _joined(decisive)) or heads[-1][1] + item.size_bytes - tail_offset > _MOST_BYTES:
        return None
    head = itemgetter(*[slice(*span) for span in heads])
    tail = itemgetter(*[slice(start - tail_offset, end - tail_offset) for start, end in tails])
    what = "what is alike"
    return Pattern(
        item.size_bytes,
        data_offset,
        heads[-1][1],
        tail_offset,
        head,
        tail,
        head(item.read(0, heads[-1][1], what)),
        tail(item.read(tail_offset, item.size_bytes - tail_offset, what)),
        *spans.directory,
    )


def _body(record: Record) -> Span:
    return record.data_offset, record.data_offset + record.size_bytes


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that touch made one.

    >>> _joined([(6, 8), (0, 4), (4, 5)])
    [(0, 5), (6, 8)]
    """
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined
