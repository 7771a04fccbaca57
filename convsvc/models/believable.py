"""Whether a configuration can be that of the checkpoint it lies beside. Pure.

A configuration is a few bytes that may say anything: 10**18 layers are refused before there is a row for each of them. What is allowed
follows from what is stored, so that no honest model meets a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from convsvc.errors import SourceError
from convsvc.tensors.declare import Row

# However little is stored, so many layers or tensors cost nothing to look at.
FEW_LAYERS, FEW_TENSORS = 1000, 20_000
# Experts lie stacked in rank files: one stored tensor there, three for each of them by Hugging Face's names.
STACKED, MANY_TENSORS = 1000, 2_000_000
_DO = "check the configuration: it is not that of these weights"


def check_layers(origin: str, stored: int | None, counts: Mapping[str, int]) -> None:
    """Every layer has a tensor of its own. Raises SourceError for more layers (by what they are called) than can be stored."""
    for what, count in counts.items():
        if stored is not None and count > max(FEW_LAYERS, stored):
            raise SourceError(f"{origin} speaks of {count} {what}; the checkpoint has {stored} tensors in all", do=_DO)


def check_rows(origin: str, stored: int | None, scopes: Iterable[tuple[tuple[Row, ...], Mapping[str, int]]]) -> None:
    """Raises SourceError for an axis whose size nothing says, and for far more stored tensors than there are."""
    total = 0
    for rows, sizes in scopes:
        lacking = sorted({axis for row in rows for each in row.logicals for axis in each.axes if axis not in sizes})
        if lacking:
            raise SourceError(f"{origin} does not say how large {', '.join(lacking)} is, which this model family needs", do="complete it")
        total += sum(prod(sizes[axis] for axis in row.looped) for row in rows)
    if stored is not None and total > max(FEW_TENSORS, 4 * stored, min(STACKED * stored, MANY_TENSORS)):
        raise SourceError(f"{origin} describes {total} tensors, experts included; the checkpoint has {stored}", do=_DO)
