"""Hugging Face directories: config.json, and the headers of the weight files that transformers would load (`weight_files`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from convsvc.dialects.base import Checkpoint, Found, SourceFile
from convsvc.dialects.huggingface.json_files import read_json
from convsvc.dialects.huggingface.weight_files import EXPECTED, choose_files, notes_beside, notes_of_index
from convsvc.dialects.recognise import refuse
from convsvc.errors import SourceError
from convsvc.formats import FORMATS, describe_file, format_of
from convsvc.models.facts import Facts
from convsvc.roots import RootedPath, Roots
from convsvc.spec import HuggingFaceSource, stated_sizes

# Files whose headers are read at once.
READERS = 8


def open(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
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
        for tensor in index.tensors:
            if tensor.name in where:
                raise SourceError(f"{tensor.name} is in two files of {root}: {where[tensor.name]} and {each}")
            where[tensor.name] = each
            found["", tensor.name] = Found(number, tensor)
    return Checkpoint(str(root), tuple(files), found, facts, notes=(*notes_of_index(chosen, where), *notes_beside(root, chosen)))


def _config(root: RootedPath) -> Mapping[str, Any]:
    """config.json; where there is none, SourceError says what the directory holds instead."""
    check_directory(root)
    if not (root / "config.json").exists():
        refuse(root, EXPECTED, but=("hugging_face", "named_otherwise"))
    return read_json(root / "config.json")


def check_directory(root: RootedPath) -> None:
    """Raises SourceError for what is no directory, saying what it is."""
    if root.is_dir():
        return
    if not root.exists():
        raise SourceError(f"{root} does not exist")
    raise SourceError(f"{root} is {describe_file(root)[0]}, not a directory", do="give the directory that holds the checkpoint")


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
        what, do = describe_file(path)
        raise SourceError(f"{path} is {what}", facts=["it is neither safetensors nor a file of torch.save (zip)"], do=do)
    index = FORMATS[kind].read_index(path)
    return index, SourceFile(before[0], kind, before[1].st_size, before[1].st_mtime_ns, path.path, index.digest)


__all__ = ["check_directory", "index_file", "index_files", "open", "read_json"]
