"""Weights that got other scales than they were published with, as their values are others; and what is said of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from convsvc.execute.steps.records import Encode
from convsvc.notes import Note

SHOWN = 12


@dataclass(slots=True)
class Anew:
    """How many blocks of each weight have new scales, and what shares one. The copying thread adds to it."""

    counts: Counter[str] = field(default_factory=Counter)
    shared_by: dict[str, str] = field(default_factory=dict)

    def add(self, encode: Encode, blocks: int) -> None:
        if blocks:
            self.counts[encode.name] += blocks
            self.shared_by[encode.name] = encode.form.shared_by

    def notes(self) -> tuple[Note, ...]:
        """What a task says of them; nothing where there are none."""
        if not self.counts:
            return ()
        listed = [f"{name} ({count}, one for each {self.shared_by[name]})" for name, count in self.counts.most_common(SHOWN)]
        more = [f"and {len(self.counts) - SHOWN} more"] if len(self.counts) > SHOWN else []
        text = f"{len(self.counts)} weights are others than were published, and got {sum(self.counts.values())} new scales by the rule"
        return (Note("changed", f"{text}: {', '.join([*listed, *more])}"),)
