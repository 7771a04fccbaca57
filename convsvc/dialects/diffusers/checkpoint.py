"""Opening a published diffusion model: which files hold it, their headers, its configuration if there is one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.files import index_files, root_of
from convsvc.dialects.json_files import read_json
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.roots import RootedPath, Roots

CONFIG = "config.json"
INDEX = ".index.json"
WEIGHTS = re.compile(r".*\.(safetensors|pt|pth|bin)")
# What lies beside the weights of a published model and is none of its transformer's: encoders, decoders.
OTHERS = re.compile(r"(.*_?vae.*|models_t5.*|models_clip.*|optimizer.*|scheduler.*|adapter_model.*|.*lora.*)", re.IGNORECASE)
# Which is all there is of a directory of adapters.
ADAPTERS = re.compile(r"(adapter_model.*|.*lora.*)", re.IGNORECASE)
SHOWN = 6


def open_published(path: str, roots: Roots) -> Checkpoint:
    """The headers of a directory's weight files, or of one file. Raises SourceError, FormatError; PathRefused."""
    place = RootedPath(path, roots)
    if not place.exists():
        raise SourceError(f"{place} does not exist")
    folder = None if place.is_file() else place
    paths = [place] if folder is None else [folder / name for name in weight_files(folder)]
    files: list[SourceFile] = []
    stored: dict[str, Found] = {}
    for number, (index, file) in enumerate(index_files(paths)):
        files.append(file)
        for tensor in index.tensors:
            if tensor.name in stored:
                raise SourceError(f"{tensor.name} is in two files of {place}: {files[stored[tensor.name].file].name} and {file.name}")
            stored[tensor.name] = Found(number, tensor)
    root = root_of(stored)
    found = {("", name.removeprefix(root)): each for name, each in stored.items()}
    return Checkpoint(str(place), tuple(files), found, _facts(place, folder))


def _facts(place: RootedPath, folder: RootedPath | None) -> Facts:
    if folder is not None and (folder / CONFIG).is_file():
        return Facts(read_json(folder / CONFIG), str(folder / CONFIG))
    return Facts({}, str(place))


def weight_files(folder: RootedPath) -> list[str]:
    """The names of the files that hold the transformer: those of the one index, else the one file, else all shards of one name.

    Raises SourceError where that is not one model.
    """
    names = folder.names()
    indexes = [name for name in names if name.endswith(INDEX)]
    if len(indexes) > 1:
        raise SourceError(f"{folder} has {len(indexes)} indexes: {', '.join(indexes[:SHOWN])}", do="give the file, or a directory with one")
    if indexes:
        return _indexed(folder, indexes[0])
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    weights = [name for name in weights if not OTHERS.fullmatch(name)] or [name for name in weights if ADAPTERS.fullmatch(name)]
    preferred = [name for name in weights if name.endswith(".safetensors")] or weights
    if len(preferred) == 1:
        return preferred
    if not preferred:
        raise SourceError(f"{folder} has no weights", do="give the directory of the transformer, or its file")
    stems = {re.sub(r"-\d+-of-\d+", "", name) for name in preferred}
    counts = {match[1] for name in preferred if (match := re.search(r"-of-(\d+)\.", name))}
    if len(stems) == 1 and len(counts) == 1 and int(next(iter(counts))) == len(preferred):
        return sorted(preferred)
    raise SourceError(
        f"{folder} has {len(preferred)} weight files and no index: {', '.join(sorted(preferred)[:SHOWN])}",
        do="give the file that holds the transformer as the path, or fetch the index",
    )


def _indexed(folder: RootedPath, index: str) -> list[str]:
    weight_map: Mapping[str, Any] | Any = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(each, str) for each in weight_map.values()):
        raise SourceError(f"{folder / index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name]
    if outside:
        raise SourceError(f"{folder / index} names files outside its directory: {', '.join(map(ascii, outside[:3]))}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{index} names {len(missing)} file(s) that are not in {folder}: {', '.join(missing[:SHOWN])}", do="fetch them")
    return names


def shapes_of(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every stored tensor's name and shape."""
    return ((name, found.tensor.shape) for (_, name), found in checkpoint.found.items())
