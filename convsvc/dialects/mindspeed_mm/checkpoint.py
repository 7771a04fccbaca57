"""Opening rank files of MindSpeed-MM: headers, and the configuration that they do not hold."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.files import check_directory, index_file, index_files
from convsvc.dialects.huggingface.checkpoint import open_directory
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.huggingface.weight_files import listed_names
from convsvc.dialects.json_files import read_json
from convsvc.dialects.mcore import carried
from convsvc.dialects.mcore.checkpoint import MODEL, folder_name, iteration_folder, objects_in, rank_paths, weights_beside
from convsvc.dialects.mcore.progress import reached, states_beside, states_in
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMSource
from convsvc.errors import JobError, SourceError
from convsvc.families import find_family
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Opened:
    """The iteration's directory, how many model chunks a rank file has (0: the one that is not numbered), and what the job says.

    `there` are the names in `source.like_dir`, where that has any.
    """

    folder: str
    chunks: int
    source: MindSpeedMMSource
    there: frozenset[str] | None = None


def open_checkpoint(source: MindSpeedMMSource, roots: Roots) -> Checkpoint:
    """Every rank file's header. Raises SourceError, FormatError; PathRefused."""
    root = RootedPath(source.path, roots)
    check_directory(root)
    folder = iteration_folder(root, source.iteration)
    files: list[SourceFile] = []
    found: dict[tuple[str, str], Found] = {}
    ignored: set[str] = set()
    chunks: set[str] = set()
    paths = rank_paths(folder)
    first: Mapping[str, Any] | None = None
    states = states_beside(paths[0])
    for path, (index, file) in zip(paths, index_files(paths), strict=True):
        relative, before = os.path.relpath(path.path, root.path), len(found)
        for tensor in index.tensors:
            if MODEL.match(tensor.name):
                found[relative, tensor.name] = Found(len(files), tensor)
        chunks |= {key for key in index.tree if re.fullmatch(r"model\d*", key)}
        ignored |= set(objects_in(index, len(found) - before))
        states |= states_in(index.tree)
        first = index.tree if first is None else first
        files.append(file)
    if (folder / carried.FILE).is_file():
        index, file = index_file(folder / carried.FILE)
        name = carried.carried_file(folder_name(folder, root))
        found |= {(name, tensor.name): Found(len(files), tensor) for tensor in index.tensors}
        files.append(file)
    notes = [*(Note("ignored", text) for text in sorted(ignored | states)), *weights_beside(folder, paths[0])]
    opened = Opened(folder_name(folder, root), _counted(chunks, root), source, _there(source, roots))
    facts = _facts(source, root)
    if not (folder / carried.FILE).is_file():
        notes += _carry_along(source, (files, found), facts, folder_name(folder, root), roots)
    iteration = reached(first or {}, folder.name, with_state=bool(states))
    return Checkpoint(str(root), tuple(files), found, facts, opened, tuple(notes), iteration=iteration)


def _carry_along(
    source: MindSpeedMMSource, into: tuple[list[SourceFile], dict[tuple[str, str], Found]], facts: Facts, folder: str, roots: Roots
) -> list[Note]:
    """What rank files of the family have no place for (`Family.carries`), from the weights that lie beside the configuration."""
    if source.config_dir is None or not _has_weights(RootedPath(source.config_dir, roots)):
        return []
    try:
        carries = find_family(None, facts).carries
    except JobError:
        return []
    if not carries:
        return []
    files, found = into
    beside = open_directory(HuggingFaceSource(format="huggingface", path=source.config_dir), roots)
    taken = {name: each for (_, name), each in beside.found.items() if any(re.search(pattern, name) for pattern in carries)}
    used = sorted({each.file for each in taken.values()})
    for name, each in taken.items():
        found[carried.carried_file(folder), name] = Found(len(files) + used.index(each.file), each.tensor)
    files += [beside.files[number] for number in used]
    return [Note("carried", f"{len(taken)} tensor(s), e.g. {next(iter(taken))}, are taken from {source.config_dir}")] if taken else []


def _there(source: MindSpeedMMSource, roots: Roots) -> frozenset[str] | None:
    """The weights' names in the directory that the rank files are held against."""
    return None if source.like_dir is None else listed_names(RootedPath(source.like_dir, roots))


def _has_weights(folder: RootedPath) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in folder.names())


def _counted(chunks: set[str], root: RootedPath) -> int:
    """How many numbered chunks there are; 0 where there is one without a number. Raises SourceError for both, and for gaps."""
    numbers = sorted(int(key.removeprefix("model") or 0) for key in chunks)
    if not chunks or ("model" in chunks and len(chunks) > 1) or numbers != list(range(len(chunks))):
        raise SourceError(
            f"the rank files of {root} hold {', '.join(sorted(chunks)) or 'no model'}", do="they hold model, or model0, model1, ..."
        )
    return 0 if "model" in chunks else len(chunks)


def _facts(source: MindSpeedMMSource, root: RootedPath) -> Facts:
    """The configuration, and what the job states; without one, what the job states, to which comes what is seen (`seen_facts`)."""
    if source.config_dir is None:
        return Facts({}, f"{root}, without source.config_dir").stating(stated_sizes(source.architecture))
    folder = RootedPath(source.config_dir, root.roots)
    return Facts(read_json(folder / CONFIG), str(folder / CONFIG)).stating(stated_sizes(source.architecture))


def is_mindspeed_mm(root: RootedPath) -> bool:
    """Whether the first rank file has a module of MindSpeed-MM in it, by its tensors' names."""
    folder = iteration_folder(root, None)
    index, _ = index_file(rank_paths(folder)[0])
    return any(re.match(r"model\d*/(image_encoder|text_decoder|audio_encoder|predictor)\.", tensor.name) for tensor in index.tensors)
