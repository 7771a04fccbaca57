"""Hugging Face directories: config.json, and the headers of the weight files that transformers would load (`weight_files`)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from convsvc.dialects.base import Checkpoint, Found, SourceFile
from convsvc.dialects.files import check_directory, index_files
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.huggingface.weight_files import EXPECTED, choose_files, notes_beside, notes_of_index
from convsvc.dialects.json_files import read_json
from convsvc.dialects.recognise import refuse
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes


def open_directory(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
    """Read config.json, the index and every weight file's header."""
    root = RootedPath(source.path, roots)
    config = _config(root)
    chosen = choose_files(root, config.get("transformers_weights"))
    facts = Facts(config, str(root / "config.json")).stating(stated_sizes(source.architecture))
    names = chosen.names
    files: list[SourceFile] = []
    found: dict[tuple[str, str], Found] = {}
    where: dict[str, str] = {}
    for number, (each, (index, file)) in enumerate(zip(names, index_files([root / each for each in names]), strict=True)):
        files.append(file)
        there = [tensor.name for tensor in index.tensors]
        twice = next(filter(where.__contains__, there), None)
        if twice is not None:
            raise SourceError(f"{twice} is in two files of {root}: {where[twice]} and {each}")
        where.update(dict.fromkeys(there, each))
        found.update(zip(zip(repeat(""), there, strict=False), map(Found, repeat(number), index.tensors), strict=False))
    return Checkpoint(str(root), tuple(files), found, facts, notes=(*notes_of_index(chosen, where), *notes_beside(root, chosen)))


def _config(root: RootedPath) -> Mapping[str, Any]:
    """config.json; where there is none, SourceError says what the directory holds instead."""
    check_directory(root)
    if not (root / "config.json").exists():
        refuse(root, EXPECTED, but=("hugging_face", "named_otherwise"))
    return read_json(root / "config.json")
