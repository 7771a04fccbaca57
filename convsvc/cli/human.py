"""Times and durations as people read them. Pure."""

from __future__ import annotations

from datetime import datetime, timezone

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


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
    return duration(None if start is None else ((end or datetime.now(timezone.utc)) - start).total_seconds())


def moment(at: datetime | None) -> str:
    """A time, to the second, in UTC, and how long ago that was.

    >>> moment(None)
    '-'
    """
    if at is None:
        return "-"
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC ({between(at)} ago)"
