"""Which jobs a list shall have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from convsvc.service.store.models import JobRow


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job must be: submitted from `since` on and before `until`; with all these labels ("" is any value); and so on.

    `name`, `source` and `target` are looked for within the job's own.
    """

    since: datetime | None = None
    until: datetime | None = None
    name: str | None = None
    model_type: str | None = None
    source: str | None = None
    target: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)

    def conditions(self) -> list[Any]:
        """As SQL."""
        within = {JobRow.name: self.name, JobRow.source_path: self.source, JobRow.target_path: self.target}
        found: list[Any] = [column.contains(text, autoescape=True) for column, text in within.items() if text]
        if self.since:
            found.append(JobRow.created_at >= self.since)
        if self.until:
            found.append(JobRow.created_at < self.until)
        if self.model_type:
            found.append(JobRow.model_type == self.model_type)
        for name, value in self.labels.items():
            there = JobRow.labels[name].as_string()
            found.append(there.is_not(None) if value is None else there == value)
        return found


EVERYTHING = Wanted()
