"""What a plan's casts are, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from convsvc.notes import Note
from convsvc.plan.records import PlannedTensor, Transfer
from convsvc.tensors.dtypes import is_lossless


def describe_casts(
    transfers: Iterable[tuple[str, Transfer]], sources: Sequence[PlannedTensor], targets: Sequence[PlannedTensor]
) -> tuple[Note, ...]:
    """A note for each pair of dtypes between which logical tensors are cast, with how many there are, the commonest first."""
    pairs: Counter[tuple[str, str]] = Counter()
    for _, transfer in transfers:
        given = {sources[view.places[0].tensor].value_dtype for view in transfer.reads}
        wanted = {targets[view.places[0].tensor].value_dtype for view in transfer.writes}
        pairs.update((a, b) for a in given for b in wanted if a != b)
    return tuple(Note("changed", _sentence(count, *pair)) for pair, count in pairs.most_common())


def _sentence(count: int, source: str, target: str) -> str:
    kept = "every value is kept" if is_lossless(source, target) else "rounded to the nearest, ties to even"
    return f"{count} logical tensor(s) are cast from {source} to {target}: {kept}"
