"""Numbers as people read them. Pure."""

from __future__ import annotations

from datetime import datetime, timezone


def in_bytes(count: int) -> str:
    """A number of bytes for people.

    >>> in_bytes(1536), in_bytes(12)
    ('1.5 KiB', '12 B')
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def in_time(nanoseconds: int) -> str:
    """A time of a file, in UTC, so precise that two that differ look different.

    >>> in_time(1_704_067_200_000_000_001)
    '2024-01-01 00:00:00.000000001 UTC'
    """
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}.{rest:09d} UTC"


def counted(count: object, noun: str) -> str:
    """So many of something; the noun's plural has an s.

    >>> counted(1, "task"), counted(2, "file")
    ('1 task', '2 files')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
