"""How frameworks name and lay out the logical tensors: one folder each, found by the job's `format`.

A folder has a `job` module (what a job may say of the format), `source` (SOURCE: how it is read) and `target` (TARGET: how it is written);
one of the two may be missing. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, cast

from convsvc.spec.formats import formats, sides

if TYPE_CHECKING:
    from convsvc.dialects.base import Source, Target


def source_of(name: str) -> Source:
    """How the format of this name is read."""
    return cast("Source", import_module(formats()[name] + ".source").SOURCE)


def target_of(name: str) -> Target:
    """How the format of this name is written."""
    return cast("Target", import_module(formats()[name] + ".target").TARGET)


def sources() -> Iterator[Source]:
    """Every format that is read."""
    return map(source_of, sides("SOURCE"))


def targets() -> Iterator[Target]:
    """Every format that is written."""
    return map(target_of, sides("TARGET"))
