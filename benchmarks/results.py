"""Results as a table for people and JSON for `benchmarks.report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine

FOLDER = Path(__file__).parent / "results"
MB, MIB = 10**6, 1 << 20
Rows = Sequence[dict[str, Any]]


def save(name: str, title: str, rows: Rows, began: dict[str, Any], folder: Path) -> Path:
    """Writes the results with the day and the load before and after; prints them as a table."""
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    data = {"title": title, "day": day, "before": began, "after": machine(), "rows": list(rows)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    print(render(data))
    return path


def render(data: dict[str, Any]) -> str:
    """The results as markdown: a sentence, then a table."""
    before, after = data["before"], data["after"]
    where = f"{before['cpus']} CPUs, kernel {before['kernel']}, load {before['load_1min']} before and {after['load_1min']} after"
    return f"{data['title']} ({data['day']}; {where})\n\n{table(data['rows'])}\n"


def table(rows: Rows) -> str:
    """A markdown table; columns are the first row's.

    >>> print(table([{"arm": "cp -r", "s": 1.25}]))
    | arm | s |
    |---|---:|
    | cp -r | 1.25 |
    """
    names = list(rows[0]) if rows else []
    marks = ["---" if isinstance(rows[0][name], str) else "---:" for name in names]
    lines = [names, *([_cell(row.get(name, "")) for name in names] for row in rows)]
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([body[0], "|" + "|".join(marks) + "|", *body[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else str(round(value))
    return str(value)
