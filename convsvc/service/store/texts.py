"""Texts as the job store keeps them, whatever they came from: a file's header, a path, an error of another program.

PostgreSQL takes no NUL in a text, no database takes half a character (a lone surrogate: a byte of a file name that is no UTF-8), and a
column for names has an end. One such text must fail to be read well, not to be kept: a report that is refused says nothing.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from sqlalchemy import JSON, Dialect, String, Text, TypeDecorator


def clean_text(text: str, most: int | None = None) -> str:
    r"""The text with NULs and halves of characters written out, and "…" in the place of what is beyond `most` characters.

    >>> clean_text("q\0proj \udcff"), clean_text("abcdef", 4)
    ('q\\x00proj \\udcff', 'abc…')
    """
    # Most texts are as they should be, and are looked at once.
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    return text if most is None or len(text) <= most else text[: most - 1] + "…"


def clean_json(value: Any) -> Any:
    """The value with every text in it cleaned, names of fields too; numbers that JSON has no word for become texts."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {clean_text(str(name)): clean_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


class Words(TypeDecorator[str]):
    """A text of any length that people read."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)


class Label(TypeDecorator[str]):
    """A name that people read, of at most `most` characters; what is too long is cut.

    Never a key: two that differ at their ends would become one.
    """

    impl = String
    cache_ok = True

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value, self.most)


class Document(TypeDecorator[Any]):
    """JSON, whose texts are cleaned."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return clean_json(value)
