"""Hugging Face directories: config.json, and weights in model*.safetensors or pytorch_model*.bin with or without an index.

Names come from the family's own rows; here are only the files. A directory with several weight files needs an index, as
transformers needs one (transformers/utils/hub.py, get_checkpoint_shard_files).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from convsvc.dialects.base import Checkpoint, Found, SourceFile
from convsvc.errors import SourceError
from convsvc.families.facts import Facts
from convsvc.formats import FORMATS, format_of
from convsvc.formats.regular_file import open_regular
from convsvc.roots import RootedPath, Roots
from convsvc.spec import HuggingFaceSource, stated_sizes

# Files whose headers are read at once.
READERS = 8
# The index of a trillion parameters has some 10 MB.
MAX_JSON_BYTES = 256 << 20
# In the order transformers looks for them.
STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))


def open(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
    """Read config.json, the index and every weight file's header."""
    root = RootedPath(source.path, roots)
    if not root.is_dir():
        raise SourceError(f"{root} is not a directory" if root.exists() else f"{root} does not exist")
    facts = Facts(read_json(root / "config.json"), str(root / "config.json")).stating(stated_sizes(source.architecture))
    names, weight_map = _weight_files(root)
    files: list[SourceFile] = []
    found: dict[tuple[str, str], Found] = {}
    where: dict[str, str] = {}
    for number, (each, (index, file)) in enumerate(zip(names, index_files([root / each for each in names]), strict=True)):
        files.append(file)
        for tensor in index.tensors:
            if tensor.name in where:
                raise SourceError(f"{tensor.name} is in two files of {root}: {where[tensor.name]} and {each}")
            where[tensor.name] = each
            found["", tensor.name] = Found(number, tensor)
    if weight_map is not None:
        _check_index(root, weight_map, where)
    return Checkpoint(str(root), tuple(files), found, facts)


def index_files(paths: Sequence[RootedPath]) -> Iterator[tuple[Any, SourceFile]]:
    """`index_file` of each path, in their order; several are read at once, as a thousand files are mostly waiting on shared storage."""
    with ThreadPoolExecutor(READERS, "convsvc-index") as pool:
        yield from pool.map(index_file, paths)


def index_file(path: RootedPath) -> tuple[Any, SourceFile]:
    """A weight file's index, and the file as it was then."""
    before = path.look()
    if before is None:
        raise SourceError(f"{path} does not exist")
    kind = format_of(path)
    if kind is None:
        raise SourceError(f"{path} is neither safetensors nor a PyTorch zip file")
    return FORMATS[kind].read_index(path), SourceFile(before[0], kind, before[1].st_size, before[1].st_mtime_ns)


def read_json(path: RootedPath) -> Mapping[str, Any]:
    """A JSON object. Raises SourceError, naming the file."""
    if not path.exists():
        raise SourceError(f"{path} does not exist", do="a Hugging Face checkpoint has a config.json beside its weights")
    with open_regular(path) as file:
        if file.size_bytes > MAX_JSON_BYTES:
            raise SourceError(f"{path} has {file.size_bytes} bytes; at most {MAX_JSON_BYTES} are read")
        data = file.read(0, file.size_bytes, "the JSON")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def _weight_files(root: RootedPath) -> tuple[list[str], Mapping[str, str] | None]:
    """The weight files' names, and the index's map where there is an index."""
    for stem, ending in STEMS:
        index = root / f"{stem}.{ending}.index.json"
        if index.is_file():
            return _indexed(root, index)
        single = root / f"{stem}.{ending}"
        if single.exists():
            return [single.name], None
        several = [name for name in root.names() if re.fullmatch(rf"{stem}-.*\.{ending}", name)]
        if len(several) == 1:
            return several, None
        if several:
            raise SourceError(
                f"{root} has {len(several)} {stem}-*.{ending} files and no {index.name}",
                do=f"fetch {index.name}: it says what belongs together",
            )
    raise SourceError(f"{root} has no weights", facts=[f"looked for {stem}*.{ending}" for stem, ending in STEMS])


def _indexed(root: RootedPath, index: RootedPath) -> tuple[list[str], Mapping[str, str]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
        raise SourceError(f"{index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    outside = [each for each in names if "/" in each or "\0" in each or each in ("", ".", "..")]
    if outside:
        raise SourceError(f"{index} names files outside its directory: {', '.join(map(ascii, outside[:3]))}")
    missing = [each for each in names if not (root / each).exists()]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise SourceError(f"{index.name} names {len(missing)} file(s) that are not in {root}: {shown}", do="fetch what is missing")
    return names, weight_map


def _check_index(root: RootedPath, weight_map: Mapping[str, str], where: Mapping[str, str]) -> None:
    """The index and the files must say the same."""
    faults = [
        f"{key} is said to be in {file}, but is in {where[key]}" for key, file in weight_map.items() if key in where and where[key] != file
    ]
    faults += [f"{key} is said to be in {file}, but is in no file" for key, file in weight_map.items() if key not in where]
    faults += [f"{key} is in {file}, but not in the index" for key, file in where.items() if key not in weight_map]
    if faults:
        raise SourceError(
            f"the index of {root} and its files disagree about {len(faults)} tensor(s)",
            facts=faults[:10] + ([f"and {len(faults) - 10} more"] if len(faults) > 10 else []),
            do="fetch the checkpoint again",
        )
