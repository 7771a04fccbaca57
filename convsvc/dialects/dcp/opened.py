"""What is known of a torch distributed checkpoint that is open, beside what any checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convsvc.dialects.cuts import Cut


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found out beside the tensors: the whole tensors' shapes, and what of each lies where."""

    shapes: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, tuple[Cut, ...]]
