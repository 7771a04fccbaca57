"""A checkpoint held against the Hugging Face directory that its training began with: what is beyond that, what is missing, what stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.cuts import Cut
from convsvc.dialects.dcp.opened import Opened
from convsvc.dialects.files import check_directory, index_files
from convsvc.dialects.huggingface.weight_files import choose_files
from convsvc.dialects.joined import shifted
from convsvc.errors import SourceError
from convsvc.notes import Kind, Note
from convsvc.roots import RootedPath

SHOWN = 12
# They may be kept one by one here and in one tensor there; that all are there, the model proves.
EXPERTS = re.compile(r"(.*\.)?experts\..*")


def as_there(checkpoint: Checkpoint, root: RootedPath, fill_beginning: str | None) -> Checkpoint:
    """The checkpoint with the weights that the directory has: less what it has not, and with what it alone has under `fill_beginning`.

    Raises SourceError for weights of the directory that the checkpoint lacks.
    """
    files, there = _weights(root)
    opened: Opened = checkpoint.settings
    beyond = [name for name in opened.shapes if name not in there and not EXPERTS.fullmatch(name)]
    filled = {name for name in there if fill_beginning is not None and name.startswith(fill_beginning) and name not in opened.shapes}
    if _is_filled_by_half(filled, opened, fill_beginning):
        filled = set()
    missing = [name for name in there if name not in opened.shapes and name not in filled and not EXPERTS.fullmatch(name)]
    if missing:
        raise SourceError(
            f"{checkpoint.path} lacks {len(missing)} of the {len(there)} weights that {root} has",
            facts=[*missing[:SHOWN], f"it has {len(opened.shapes)} tensors, e.g. {next(iter(opened.shapes))}"],
            do="see that both are of one model, and that the prefixes are the ones it was trained with",
        )
    notes = [_note("ignored", beyond, f"not among the weights of {root}, left out")] if beyond else []
    notes += [_note("filled", sorted(filled), f"taken from {root}, as the checkpoint has none")] if filled else []
    kept = _without(checkpoint, frozenset(beyond))
    return replace(_joined(kept, files, {name: there[name] for name in filled}), notes=(*checkpoint.notes, *notes))


def _weights(root: RootedPath) -> tuple[tuple[SourceFile, ...], dict[str, Found]]:
    check_directory(root)
    names = choose_files(root).names
    indexed = list(index_files([root / name for name in names]))
    found = {tensor.name: Found(number, tensor) for number, (index, _) in enumerate(indexed) for tensor in index.tensors}
    return tuple([file for _, file in indexed]), found


def _is_filled_by_half(filled: set[str], opened: Opened, beginning: str | None) -> bool:
    """Whether the checkpoint has some of what could be taken from the directory: then none of it is, and what is missing is an error."""
    return bool(filled) and beginning is not None and any(name.startswith(beginning) for name in opened.shapes)


def _note(kind: Kind, names: list[str], why: str) -> Note:
    return Note(kind, f"{len(names)} tensor(s), e.g. {names[0]}: {why}")


def _without(checkpoint: Checkpoint, names: frozenset[str]) -> Checkpoint:
    if not names:
        return checkpoint
    opened: Opened = checkpoint.settings
    found = {key: each for key, each in checkpoint.found.items() if key[1] not in names}
    shapes = {name: shape for name, shape in opened.shapes.items() if name not in names}
    return replace(
        checkpoint, found=found, settings=Opened(shapes, {name: cuts for name, cuts in opened.cuts.items() if name not in names})
    )


def _joined(checkpoint: Checkpoint, files: tuple[SourceFile, ...], filled: Mapping[str, Found]) -> Checkpoint:
    """The checkpoint with whole tensors of other files."""
    if not filled:
        return checkpoint
    opened: Opened = checkpoint.settings
    more = shifted({("", name): each for name, each in filled.items()}, len(checkpoint.files))
    shapes = {name: each.tensor.shape for name, each in filled.items()}
    cuts = {name: (Cut("", (0,) * len(shape), shape),) for name, shape in shapes.items()}
    return replace(
        checkpoint,
        files=(*checkpoint.files, *files),
        found={**checkpoint.found, **more},
        settings=Opened({**opened.shapes, **shapes}, {**opened.cuts, **cuts}),
    )
