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


def as_there(checkpoint: Checkpoint, root: RootedPath, fill_beginning: str | None, *, as_kept: bool) -> Checkpoint:
    """The checkpoint with the weights that the directory has: less what it has not, and with what it alone has under `fill_beginning`.

    `as_kept`: experts, too, are converted as they lie here. Raises SourceError for weights of the directory that the checkpoint lacks or
    has in another form.
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
    if fill_beginning is not None and not filled and (own := [name for name in opened.shapes if name.startswith(fill_beginning)]):
        raise SourceError(
            f"{checkpoint.path} has {len(own)} weights of its own that begin with {fill_beginning!r}, e.g. {own[0]}",
            do=f"leave out that those of {root} are to be taken (source.fill_beginning; --keep_origin_mtp_weights): these were trained",
        )
    _check_forms(checkpoint, there, root, as_kept)
    notes = [_note("ignored", beyond, f"not among the weights of {root}, left out")] if beyond else []
    notes += [_note("filled", sorted(filled), f"taken from {root}, as the checkpoint has none")] if filled else []
    kept = _without(checkpoint, frozenset(beyond))
    return replace(_joined(kept, files, {name: there[name] for name in filled}), notes=(*checkpoint.notes, *notes))


def _check_forms(checkpoint: Checkpoint, there: Mapping[str, Found], root: RootedPath, as_kept: bool) -> None:
    """Raises SourceError for tensors that are not of the shape that they have there. There may be more or fewer rows of a vocabulary."""
    opened: Opened = checkpoint.settings
    faults = [
        f"{name}: {list(shape)} here, {list(other.shape)} there"
        for name, shape in opened.shapes.items()
        if name in there and (as_kept or not EXPERTS.fullmatch(name))
        if (len((other := there[name].tensor).shape), *other.shape[1:]) != (len(shape), *shape[1:]) and _is_plain(other.dtype)
    ]
    if faults:
        raise SourceError(
            f"{checkpoint.path} has {len(faults)} weights in another form than {root}",
            facts=faults[:SHOWN],
            do="see that both are of one model, and say how the checkpoint keeps its experts (source.experts; --fused_linear_names)",
        )


def _is_plain(dtype: str) -> bool:
    """Whether a weight of this dtype is no packed one, whose shape says little."""
    return dtype in ("F64", "F32", "F16", "BF16")


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
