"""words.txt: the configuration, a line a word: `hidden_size = 16`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from convsvc.errors import SourceError
from convsvc.formats.regular_file import open_regular
from convsvc.roots import RootedPath

WORDS = "words.txt"
MAX_BYTES = 1 << 20


def write_words(words: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in sorted(words.items()))


def read_words(path: RootedPath) -> dict[str, Any]:
    """Raises SourceError for a line that is none, FormatError for a file that is not there."""
    with open_regular(path) as file:
        if file.size_bytes > MAX_BYTES:
            raise SourceError(f"{path} has {file.size_bytes} bytes; at most {MAX_BYTES} are read")
        text = file.read(0, file.size_bytes, "the words").decode(errors="replace")
    words = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.partition(" = ")
        try:
            words[name] = json.loads(value)
        except ValueError as error:
            raise SourceError(f"{path}, line {number}: {error}") from None
    return words
