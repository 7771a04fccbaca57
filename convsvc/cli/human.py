"""Times and durations as people read them. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def now() -> datetime:
    return datetime.now(timezone.utc)


def duration(seconds: float | None) -> str:
    """The two largest units that say something, as kubectl has them.

    >>> duration(0.25), duration(59), duration(3_725), duration(90_000), duration(None)
    ('0.2s', '59s', '1h2m', '1d1h', '-')
    """
    if seconds is None:
        return "-"
    if 0 < seconds < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    if len(parts) == 2 and parts[1].startswith("0"):
        parts.pop()
    return "".join(parts) or "0s"


def between(start: datetime | None, end: datetime | None = None) -> str:
    """How long from one time to another, or until now."""
    return duration(None if start is None else ((end or now()) - start).total_seconds())


def moment(at: datetime | None) -> str:
    """A time, to the second, in UTC, and how long ago that was.

    >>> moment(None)
    '-'
    """
    if at is None:
        return "-"
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC ({between(at)} ago)"


def time_of(text: str) -> datetime:
    """A time as people write it: so long ago (90m, 6h, 2d, 1w), or ISO 8601, which is local where it has no zone. Raises ValueError."""
    ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if ago:
        return now() - int(ago[1]) * timedelta(seconds={"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[ago[2]])
    return datetime.fromisoformat(text).astimezone(timezone.utc)
