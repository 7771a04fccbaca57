"""A digest of the args that we save, among them: what was changed in them since is noticed, though its tensors are as they were. Pure.

Training puts args of its own into what it saves, without the digest: those are compared with the weights and with a configuration alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from convsvc.notes import Note

NAME = "convsvc_digest"


def digest_of(args: Mapping[str, Any]) -> str:
    """SHA-256 over every arg but the digest itself, whatever their order.

    >>> digest_of({"a": 1, "b": "x"}) == digest_of({"b": "x", "a": 1, NAME: "y"}) != digest_of({"a": 1, "b": "z"})
    True
    """
    words = "\n".join(f"{name}={value!r}" for name, value in sorted(args.items()) if name != NAME)
    return hashlib.sha256(words.encode("utf-8", "backslashreplace")).hexdigest()


def changed_since(args: Mapping[str, Any], path: str) -> tuple[Note, ...]:
    """A word where args that have a digest are not those that it was made of. People do change args on purpose."""
    stated = args.get(NAME)
    if stated is None or stated == digest_of(args):
        return ()
    return (Note("advice", f"the args in {path} are not as convsvc wrote them: something in them was changed since ({NAME})"),)
