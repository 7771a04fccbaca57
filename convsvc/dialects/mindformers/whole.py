"""Whole checkpoints: parts of safetensors, named by param_name_map.json, or the files that are there."""

from __future__ import annotations

from collections.abc import Sequence

from convsvc.dialects.checkpoint import Found, SourceFile
from convsvc.dialects.files import index_files
from convsvc.dialects.json_files import read_json
from convsvc.dialects.mindformers.names import HYPER_FILE
from convsvc.errors import SourceError
from convsvc.notes import Note
from convsvc.roots import RootedPath

MAP, ENDING = "param_name_map.json", ".safetensors"
SHOWN = 5

Key = tuple[str, str]


def find_whole(root: RootedPath) -> tuple[list[SourceFile], dict[Key, Found], list[Note]]:
    """The files, every tensor in them by ("", name), and notes.

    Raises SourceError where a file that is named is missing, a name lies in two files, or a name of the map in none; FormatError.
    """
    names, mapped, notes = _names(root)
    files: list[SourceFile] = []
    found: dict[Key, Found] = {}
    where: dict[str, str] = {}
    for number, (name, (index, file)) in enumerate(zip(names, index_files([root / name for name in names]), strict=True)):
        files.append(file)
        for tensor in index.tensors:
            if tensor.name in where:
                raise SourceError(f"{tensor.name} is in two files of {root}: {where[tensor.name]} and {name}")
            where[tensor.name] = name
            found["", tensor.name] = Found(number, tensor)
    lacking = [name for name in mapped if name not in where]
    if lacking:
        raise SourceError(
            f"{len(lacking)} tensor(s) that {MAP} of {root} names are in no file: {_short(lacking)}", do="fetch or write the parts again"
        )
    return files, found, notes


def _names(root: RootedPath) -> tuple[list[str], tuple[str, ...], list[Note]]:
    """The files' names, the tensors that the map names, and notes for what is left out."""
    there = [name for name in root.names() if name.endswith(ENDING)]
    if not (root / MAP).is_file():
        names = [name for name in there if name != HYPER_FILE]
        if not names:
            raise SourceError(f"{root} has no {ENDING} files", do="give the directory that holds the weights")
        return names, (), _left_out(there, names, "")
    said = read_json(root / MAP)
    mapped = said.get("weight_map", said)
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(file, str) for file in mapped.values()):
        raise SourceError(f"{root / MAP} must map tensor names to file names")
    names = sorted({file for file in mapped.values() if file != HYPER_FILE})
    outside = [name for name in names if "/" in name or name in ("", ".", "..") or "\0" in name]
    if outside:
        raise SourceError(f"{root / MAP} names files outside its directory: {', '.join(map(ascii, outside[:3]))}")
    missing = [name for name in names if name not in there]
    if missing:
        raise SourceError(f"{MAP} names {len(missing)} file(s) that are not in {root}: {_short(missing)}", do="fetch what is missing")
    return (
        names,
        tuple(name for name, file in mapped.items() if file != HYPER_FILE),
        _left_out(there, names, f", as {MAP} does not name them"),
    )


def _left_out(there: Sequence[str], names: Sequence[str], why: str) -> list[Note]:
    notes = [Note("ignored", f"{HYPER_FILE}: counters of training, and what one rank had of the optimizer")] if HYPER_FILE in there else []
    others = [name for name in there if name not in names and name != HYPER_FILE]
    return [*notes, *([Note("ignored", f"weight files beside, not read{why}: {_short(others)}")] if others else [])]


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
