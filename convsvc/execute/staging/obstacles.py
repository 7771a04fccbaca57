"""What would make a job fail at its target, looked for ahead of it: nothing is made, locked or changed.

The same questions as when the target is opened for writing, in the same words. What they find may be gone when the job's turn comes, and
something else be there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from convsvc.errors import ConvsvcError, TargetBusy, TargetError
from convsvc.execute.check.already import check_already
from convsvc.execute.staging.folders import is_directory
from convsvc.execute.staging.locks import holder_of
from convsvc.execute.staging.protected import check_apart
from convsvc.execute.staging.publishing import find_replaced
from convsvc.execute.staging.room import check_room
from convsvc.execute.staging.sites import Site, look_at_site, staging_path, target_errors
from convsvc.plan.plan import Plan


def find_obstacles(plan: Plan) -> list[ConvsvcError]:
    """The errors with which the plan's job would fail now, as its options say: the target is there, busy, cannot be written, has no room,
    or holds what the job reads. Raises PathRefused."""
    target = Path(plan.roots.check(plan.target_path, "target.path", inside=True))
    checks: tuple[Callable[[Plan, Path], None], ...] = (check_apart, _check_target, _check_writable, _check_space)
    found = []
    for check in checks:
        try:
            with target_errors(target):
                check(plan, target)
        except ConvsvcError as error:
            found.append(error)
    return found


def _check_target(plan: Plan, target: Path) -> None:
    on_exists = plan.job.get("options", {}).get("on_exists")
    if not target.parent.is_dir() or (on_exists == "reuse" and check_already(plan) is not None):
        return
    site = look_at_site(target, plan.roots)
    try:
        _check_free(site)
        find_replaced(site, plan, overwrites=on_exists == "overwrite")
    finally:
        site.close()


def _check_free(site: Site) -> None:
    """Raises TargetBusy where a process of this machine holds the lock: of one elsewhere nobody can say whether it lives."""
    holder = holder_of(site.lock_path)
    if holder is not None and holder.is_here:
        raise TargetBusy(
            f"process {holder.pid} on {holder.host} is writing {site.target}",
            do="wait for it, cancel it, or choose another target",
            details={"target": str(site.target), **holder.as_dict()},
        )


def _check_writable(plan: Plan, target: Path) -> None:
    folder = next(folder for folder in target.parents if folder.is_dir())
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return
    if is_directory(target) and os.access(target, os.W_OK | os.X_OK, effective_ids=True):
        return  # it is made inside
    raise TargetError(
        f"{target} cannot be written: {folder} is not writable for user {os.geteuid()}",
        do="check the path and its permissions",
        details={"target": str(target), "path": str(folder)},
    )


def _check_space(plan: Plan, target: Path) -> None:
    """What lies in a staging directory already counts: it is gone on with, or makes room."""
    check_room(plan, staging_path(target), next(folder for folder in (target, *target.parents) if folder.is_dir()))
