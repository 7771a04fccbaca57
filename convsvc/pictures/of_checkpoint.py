"""The picture of a checkpoint: which of its files holds which part of which tensor. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convsvc.errors import SourceError
from convsvc.pictures.gather import Lying, Part, Side, compose_picture
from convsvc.plan.inspect import ask_for
from convsvc.plan.source import OpenSource, open_source
from convsvc.roots import ANYWHERE, RootedPath, Roots


def picture_of_checkpoint(path: str, roots: Roots = ANYWHERE) -> dict[str, Any]:
    """The data of the checkpoint's picture, as `compose_picture` says.

    Raises SourceError, PlanError and what else keeps it from being converted: what is where follows from what it is.
    """
    root = RootedPath(path, roots)
    if root.is_file():
        raise SourceError(f"{path} is a single file: there is no picture of one", do="name its directory, or leave out --html")
    asked = ask_for(root)
    source = open_source(asked, roots)
    files = [(file.name.removeprefix(path.rstrip("/") + "/"), file.size_bytes) for file in source.checkpoint.files]
    model = source.model
    facts = {"family": model.family.name, "layers": model.num_layers, "experts": model.num_experts}
    side = Side("checkpoint", asked.source.format, path, files)
    return compose_picture(asked.source.format, facts, (side,), _lying(source))


def _lying(source: OpenSource) -> Iterator[Lying]:
    kinds = source.inventory.kinds
    for entry in source.inventory.entries:
        for block in kinds[entry.kind].blocks:
            part = Part(entry.found.tensor.name, (entry.found.file,), block.starts, block.stops)
            yield Lying(block.tensor.name, block.tensor.axes, block.tensor.sizes, ((part,),))
