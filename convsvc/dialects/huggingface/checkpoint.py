"""Hugging Face directories: config.json, and the headers of the weight files that transformers would load (`weight_files`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile, found_in
from convsvc.dialects.files import check_directory, index_file, index_files, root_of
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.huggingface.put_together import Parts
from convsvc.dialects.huggingface.weight_files import EXPECTED, choose_files, notes_beside, notes_of_index
from convsvc.dialects.json_files import read_json
from convsvc.dialects.recognise import refuse
from convsvc.errors import JobError, SourceError
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes


def open_directory(source: HuggingFaceSource, roots: Roots) -> Checkpoint:
    """Read config.json, the index and every weight file's header."""
    root = RootedPath(source.path, roots)
    config = _config(root)
    facts = Facts(config, str(root / "config.json")).stating(stated_sizes(source.architecture))
    parts = _parts(source, roots)
    if source.weights_path is not None:
        return replace(_of_file(root, RootedPath(source.weights_path, roots)), facts=facts, settings=parts)
    return replace(_of_directory(root, config), facts=facts, settings=parts)


def _of_directory(root: RootedPath, config: Mapping[str, Any]) -> Checkpoint:
    """The headers of the files that a directory and its configuration name."""
    chosen = choose_files(root, config.get("transformers_weights"))
    names = chosen.names
    files: list[SourceFile] = []
    found: dict[tuple[str, str], Found] = {}
    for number, (each, (index, file)) in enumerate(zip(names, index_files([root / each for each in names]), strict=True)):
        files.append(file)
        keys = list(zip(repeat(""), [tensor.name for tensor in index.tensors], strict=False))
        twice = () if found.keys().isdisjoint(keys) else keys
        for key in filter(found.__contains__, twice):
            raise SourceError(
                f"{key[1]} is in two files of {root}: {names[found[key].file]} and {each}",
                do="keep one: fetch the files that the index names again, into an empty directory, if the copies are of two downloads",
            )
        found.update(zip(keys, found_in(number, index.tensors), strict=True))
    notes = (*notes_of_index(chosen, found), *notes_beside(root, chosen))
    return Checkpoint(str(root), tuple(files), found, Facts({}, str(root)), notes=notes)


def _of_file(root: RootedPath, path: RootedPath) -> Checkpoint:
    """The headers of the one file that a job names, for the model of this directory. Raises SourceError for one without tensors."""
    index, file = index_file(path)
    if not index.tensors:
        raise SourceError(f"source.weights_path: {path} holds no tensors", do="give the file with the model's weights")
    outer = root_of(tensor.name for tensor in index.tensors)
    found = {("", tensor.name.removeprefix(outer)): Found(0, tensor) for tensor in index.tensors}
    note = Note("ignored", f"the weights in {root}: those of {path} are taken (source.weights_path)")
    return Checkpoint(str(root), (file,), found, Facts({}, str(path)), notes=(note,))


def _parts(source: HuggingFaceSource, roots: Roots) -> Parts | None:
    """What the job puts together with the directory; None for nothing. Raises JobError, SourceError."""
    if source.text_decoder_dir is None:
        return Parts(own_head=True) if source.own_head else None
    if source.modules:
        raise JobError("source.text_decoder_dir takes the place of a text decoder, and source.modules asks for nothing else", do="say one")
    root = RootedPath(source.text_decoder_dir, roots)
    check_directory(root)
    config = read_json(root / "config.json") if (root / "config.json").is_file() else {}
    return Parts(_of_directory(root, config), source.own_head)


def _config(root: RootedPath) -> Mapping[str, Any]:
    """config.json; where there is none, SourceError says what the directory holds instead."""
    check_directory(root)
    if not (root / "config.json").exists():
        refuse(root, EXPECTED, but=("hugging_face", "named_otherwise"))
    return read_json(root / "config.json")
