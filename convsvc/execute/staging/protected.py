"""What a job reads may not lie in its target: replacing the target would remove it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from convsvc.errors import TargetError
from convsvc.execute.staging.manifest import shorten
from convsvc.plan.job_paths import paths_in
from convsvc.plan.plan import Plan
from convsvc.roots.beneath import is_within


def check_apart(plan: Plan, target: Path) -> None:
    """Raises TargetError where something that the job names or reads is the target, or lies in it, by its own name or where links lead."""
    inside = [
        f"{field} {path}" for field, path in dict.fromkeys(_inputs(plan)) if any(is_within(place, str(target)) for place in _places(path))
    ]
    if inside:
        raise TargetError(
            f"{inside[0]} lies in the target {target}",
            facts=shorten(inside[1:]),
            do="choose another target: what is read is never overwritten",
            details={"target": str(target), "inputs": inside},
        )


def _inputs(plan: Plan) -> Iterator[tuple[str, str]]:
    for side in ("source", "target"):
        yield from ((field, path) for field, path in paths_in(plan.job.get(side, {}), side) if field != "target.path")
    yield from (("the source file", file.path) for file in plan.source_files)
    yield from (("the file to copy", side_file.copy_from) for side_file in plan.side_files if side_file.copy_from is not None)


def _places(path: str) -> set[str]:
    """Where a path lies once links are followed; and where the last link itself lies."""
    folder, name = os.path.split(os.path.abspath(path))
    return {os.path.realpath(path), os.path.join(os.path.realpath(folder), name)}
