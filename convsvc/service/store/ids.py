"""Names of jobs: 26 letters and digits that sort by the time they were made."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_job_id(now_s: float | None = None) -> str:
    """11 characters of time in microseconds, 15 of chance. Like a ULID, but two jobs of one millisecond keep their order.

    >>> new_job_id(1.0) < new_job_id(1.00001)
    True
    """
    micros = int((time.time() if now_s is None else now_s) * 1e6)
    return _base32(micros, 11) + _base32(secrets.randbits(75), 15)


def _base32(number: int, length: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(length)))
