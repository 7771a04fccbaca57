"""The stored tensors that a checkpoint of a model consists of, as a dialect declares them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from convsvc.tensors.blocks import Laid


class Entry(NamedTuple):
    """A stored tensor of a layout: the file it lies in, the number of its kind, and the scope it belongs to.

    `file` is relative to the checkpoint; empty where the name alone tells (Hugging Face: any shard). `unit` is the scope's logical
    prefix: what belongs together in a task or a shard. `spare`: a reader does without it where other entries hold the same elements
    (MindSpore's redundancy removal saves equal slices on one of their ranks).
    """

    file: str
    kind: int
    unit: str
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The stored tensors of a checkpoint: their kinds, and where there is one of each.

    A thousand ranks share what they hold alike: what is said of a kind (its name, shape and blocks) is said once, and whatever follows from
    it is found out once, by the kind's number.
    """

    kinds: tuple[Laid, ...]
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Laid, str]]) -> Layout:
        """The layout of (file, laid, unit), no two of which are alike."""
        listed = tuple(tensors)
        entries = tuple([Entry(file, kind, unit) for kind, (file, _, unit) in enumerate(listed)])
        return cls(tuple([laid for _, laid, _ in listed]), entries)
