"""What training has no place for, kept for the way back: a file beside the rank directories, which training does not open.

In it are an MTP layer's own embedding and head, which Megatron shares with the main model, and tensors a family names as `carried`.
"""

from __future__ import annotations

from collections.abc import Iterator

from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Laid, lay
from convsvc.tensors.declare import Logical, row

FILE = "carried.safetensors"


def carried_file(folder: str) -> str:
    """The file's path relative to the checkpoint; `folder` is the iteration's."""
    return f"{folder}/{FILE}" if folder else FILE


def is_carried(file: str) -> bool:
    """Whether a file of a checkpoint is that of what is carried."""
    return file.rpartition("/")[2] == FILE


def lay_carried(model: Model, placed: frozenset[str]) -> Iterator[tuple[Laid, str]]:
    """The file's tensors with their units: copies (`Model.copies`) that have no other place, then what the family carries.

    `placed` are the full names of the logical tensors in the rank files. A reader does without copies, as their originals are there.
    """
    for scope, logical in _copies(model):
        name = scope.logical + logical.name
        if name not in placed:
            whole = row(name, logical, " ".join(logical.axes), optional=True)
            yield from ((laid, scope.logical) for laid in lay(whole, scope.sizes, {}, scope.logical))
    yield from ((laid, "carried") for laid in model.lay_carried())


def _copies(model: Model) -> Iterator[tuple[Scope, Logical]]:
    wanted = frozenset(model.copies or ())
    for scope in model.scopes:
        for logical in dict.fromkeys(each for held in scope.rows for each in held.logicals):
            if scope.logical + logical.name in wanted:
                yield scope, logical
