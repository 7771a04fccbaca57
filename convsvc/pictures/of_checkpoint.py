"""The picture of a checkpoint: which of its files holds which part of which tensor. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convsvc.dialects import source_of
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.errors import ConvsvcError, PathRefused, SourceError
from convsvc.pictures.gather import Lying, Part, Side, compose_picture
from convsvc.plan.inspect import ask_for
from convsvc.plan.source import Asked, OpenSource, open_source
from convsvc.roots import ANYWHERE, RootedPath, Roots


def picture_of_checkpoint(path: str, roots: Roots = ANYWHERE) -> dict[str, Any]:
    """The data of the checkpoint's picture, as `compose_picture` says.

    Of one that is not known, or not whole, stored tensors are drawn as they lie, with the `problem`. Raises SourceError where no header can
    be read, PathRefused.
    """
    root = RootedPath(path, roots)
    if root.is_file():
        raise SourceError(f"{path} is a single file: there is no picture of one", do="name its directory, or leave out --html")
    asked = ask_for(root)
    try:
        source = open_source(asked, roots)
    except PathRefused:
        raise
    except ConvsvcError as problem:
        return _as_stored(asked, problem, roots)
    model = source.model
    facts = {"family": model.family.name, "layers": model.num_layers, "experts": model.num_experts}
    return _composed(asked, source.checkpoint, facts, _lying(source))


def _as_stored(asked: Asked, problem: ConvsvcError, roots: Roots) -> dict[str, Any]:
    """Which tensor a stored one is part of is not known: what bears one name in several files is told apart by an axis of files."""
    reader = source_of(asked.source.format)
    try:
        checkpoint = reader.open(asked.source, roots)
    except SourceError:
        alone = reader.alone(asked.source, roots)
        if alone is None:
            raise
        checkpoint = alone
    facts = {"problem": problem.message, "tensors": len(checkpoint.found)}
    named: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for found in checkpoint.found.values():
        for piece in found.pieces:
            named.setdefault((piece.tensor.name, piece.tensor.shape), []).append(piece.file)
    return _composed(asked, checkpoint, facts, _stored(named))


def _composed(asked: Asked, checkpoint: Checkpoint, facts: dict[str, Any], tensors: Iterable[Lying]) -> dict[str, Any]:
    root = asked.source.path.rstrip("/")
    files = [(file.name.removeprefix(f"{root}/"), file.size_bytes) for file in checkpoint.files]
    return compose_picture(asked.source.format, facts, (Side("checkpoint", asked.source.format, root, files),), tensors)


def _stored(named: Mapping[tuple[str, tuple[int, ...]], list[int]]) -> Iterator[Lying]:
    for (name, shape), files in named.items():
        axes = ("file", *(f"axis {number}" for number in range(len(shape))))
        parts = [Part(name, (file,), (at, *(0 for _ in shape)), (at + 1, *shape)) for at, file in enumerate(files)]
        yield Lying(name, axes, (len(files), *shape), (parts,))


def _lying(source: OpenSource) -> Iterator[Lying]:
    kinds = source.inventory.kinds
    for entry in source.inventory.entries:
        for block in kinds[entry.kind].blocks:
            part = Part(entry.found.tensor.name, (entry.found.file,), block.starts, block.stops)
            yield Lying(block.tensor.name, block.tensor.axes, block.tensor.sizes, ((part,),))
