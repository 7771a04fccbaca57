"""config.json, an index, adapter_config.json: JSON objects of bounded size, and what a file is that should be one and is not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from convsvc.errors import SourceError
from convsvc.formats.base import HEAD_BYTES
from convsvc.formats.known import describe
from convsvc.formats.regular_file import open_regular
from convsvc.formats.unread import UNKNOWN
from convsvc.roots import RootedPath

# The index of a trillion parameters has some 10 MB.
MAX_JSON_BYTES = 256 << 20
CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)


def read_json(path: RootedPath) -> Mapping[str, Any]:
    """A JSON object. Raises SourceError, naming the file and what it is instead."""
    if not path.exists():
        raise SourceError(f"{path} does not exist", do="a Hugging Face checkpoint has a config.json beside its weights")
    with open_regular(path) as file:
        if file.size_bytes > MAX_JSON_BYTES:
            raise SourceError(f"{path} has {file.size_bytes} bytes; at most {MAX_JSON_BYTES} are read")
        data = file.read(0, file.size_bytes, "the JSON")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_json(path, data, error) from None
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def _no_json(path: RootedPath, data: bytes, error: Exception) -> SourceError:
    conflict = CONFLICT.search(data)
    if conflict:
        line = data.count(b"\n", 0, conflict.start()) + 1
        return SourceError(
            f"{path} holds the marks of a merge conflict (line {line})", do="resolve the conflict in git, or fetch the file again"
        )
    what, do = describe(data[:HEAD_BYTES])
    if what != UNKNOWN and data.lstrip()[:1] not in (b"{", b"["):
        return SourceError(f"{path} is {what}", facts=["it should be JSON"], do=do)
    return SourceError(f"{path} cannot be read as JSON: {error}", do="fetch the file again")
