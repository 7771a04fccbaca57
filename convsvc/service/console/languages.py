"""The languages of the console: English is what the pages are written in, the others are catalogues of what stands there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
NAMES: dict[Language, str] = {"en": "English", "zh": "中文"}
HTML: dict[Language, str] = {"en": "en", "zh": "zh-Hans"}
CATALOGUES = Path(__file__).parent / "messages"


def language_of(chosen: str | None, accepted: str) -> Language:
    """The one that was chosen, else the one of those there are that the browser's Accept-Language likes most.

    >>> language_of(None, "fr, zh-CN;q=0.9, en;q=0.8"), language_of("en", "zh"), language_of("xx", "")
    ('zh', 'en', 'en')
    """
    for known in LANGUAGES:
        if chosen == known:
            return known
    liked = sorted((_liked(item) for item in accepted[:1000].split(",")), key=lambda item: -item[1])
    for name, quality in liked:
        for known in LANGUAGES:
            if name.partition("-")[0] == known and quality > 0:
                return known
    return "en"


def _liked(item: str) -> tuple[str, float]:
    name, _, quality = item.strip().lower().partition(";q=")
    try:
        return name.strip(), float(quality or 1)
    except ValueError:
        return name.strip(), 0.0


def said(language: Language, text: str, **values: object) -> str:
    """The text in that language, with the values in it; in English where the catalogue has none.

    >>> said("en", "{count} tasks", count=3)
    '3 tasks'
    """
    found = catalogue(language).get(text, text)
    return found.format(**values) if values else found


@cache
def catalogue(language: Language) -> dict[str, str]:
    """What stands in the pages, and what is said instead; nothing for English."""
    if language == "en":
        return {}
    found: dict[str, str] = json.loads((CATALOGUES / f"{language}.json").read_text("utf-8"))
    return found
