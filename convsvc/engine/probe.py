"""A call that does nothing: whether an engine runs calls at all."""

from __future__ import annotations

from typing import Any


def answer(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload."""
    return payload
