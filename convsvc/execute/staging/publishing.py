"""Publishing: the staging directory becomes the target, or everything is as it was.

Beside the target the two directories exchange their names in one step (or, where the file system cannot, by two renames). In a target
that keeps its directory what is in the staging directory moves up, the old content first aside; what makes a checkpoint look complete
comes last. The private files leave the staging directory before, in one rename, with a journal of what will be done. While they lie
there, `settle` knows from what it finds whether to undo or to finish: the target is the new one once its manifest names the run.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from convsvc.dialects.output import CARD, MANIFEST, REPORT
from convsvc.errors import ConvsvcError, TargetError, TargetExists
from convsvc.execute.disk.io import write_atomically
from convsvc.execute.staging.folders import OpenFolder, is_directory, open_private, remove_private, shown
from convsvc.execute.staging.holders import Holder, this_process
from convsvc.execute.staging.manifest import find_changed, find_foreign, list_contents, read_manifest, remove_listed, shorten
from convsvc.execute.staging.marks import FENCE, JOURNAL, PRIVATE
from convsvc.execute.staging.renaming import exchange, rename_new
from convsvc.execute.staging.report_files import put_beside
from convsvc.execute.staging.sealing import sync_directories, sync_directory
from convsvc.execute.staging.sites import ENDED, NOT_CONTENT, Site, is_run, open_site, staging_path, target_errors
from convsvc.notes import Note
from convsvc.plan.plan import Plan
from convsvc.roots import ANYWHERE, Roots


@dataclass(frozen=True, slots=True)
class Journal:
    """What publishing is about to do.

    `old` are the files of the old target, by relative path: all that may be removed of it. In a target that keeps its directory, `moved`
    are the names at its top that go aside, and `new` those that come, in this order.
    """

    run: str
    old: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def find_replaced(site: Site, plan: Plan, *, overwrites: bool) -> tuple[str, ...]:
    """The files of a target that is there and will be replaced. Raises TargetExists where it may not be."""
    place = str(site.target)
    if os.path.isfile(site.at):
        raise TargetExists(f"{place} is a file", do="choose another target", details={"target": place})
    if not site.has_content():
        return ()
    if overwrites:
        return find_removable(site, plan)
    raise TargetExists(
        f"{place} exists and is not empty",
        do='choose another target, or set on_exists to "overwrite"',
        details={"target": place},
    )


def find_removable(site: Site, plan: Plan) -> tuple[str, ...]:
    """The files of the target that is there, if all it holds was made by a conversion; nothing else is ever removed.

    With a manifest that is what it lists, in the sizes it lists; without one (an older version's target, or the user's) what bears the
    name of a file that the plan writes. Raises TargetExists naming everything else.
    """
    folder = site.inside.path if site.inside else site.at
    found, manifest = list_contents(folder, NOT_CONTENT if site.inside else ()), read_manifest(folder)
    listed = dict.fromkeys(names_of(plan)) if manifest is None else {name: size for name, (size, _) in manifest.files.items()}
    foreign = find_foreign(found, {MANIFEST: None, **listed})
    if not foreign and manifest is not None:
        foreign = find_changed(folder, manifest)
    if foreign:
        what = "holds what no conversion has made there"
        if manifest is None:
            what = "has no list of what was made, and holds what this job would not write"
        raise TargetExists(
            f"{site.target} {what}; it is not overwritten",
            facts=shorten(foreign),
            do="choose another target, or move these away yourself: overwriting removes only what a conversion has written",
            details={"target": str(site.target), "in_the_way": foreign[:1000]},
        )
    return tuple(sorted(found.files))


def names_of(plan: Plan) -> tuple[str, ...]:
    """Every file that the plan's target may have, by relative path. Pure."""
    return (*(file.path for file in plan.target_files), *(side.path for side in plan.side_files), MANIFEST, REPORT, CARD)


def publish(site: Site, staged: OpenFolder, journal: Journal, overwrites: bool) -> list[Note]:
    """Moves what was staged into place. After any exception the target is as it was, and so is the staging directory.

    Answers what a user should know. Raises OSError, TargetExists where something is in the way by now, TargetError.
    """
    if not os.path.samestat(os.lstat(site.staging), os.fstat(staged.descriptor)):
        raise TargetError(f"{shown(site.staging)} was replaced while the target was made in it", details={"path": shown(site.staging)})
    site.check_held()
    write_atomically(staged.descriptor, JOURNAL, json.dumps(asdict(journal)).encode(), "publishing")
    try:
        # In one step, so that a crash leaves either all of it or nothing here, and late workers lose their fence at once.
        site.check_held()
        os.rename(staged.path / PRIVATE, site.ended)
        sync_directories(staged.path)
        if site.inside is None:
            _swap(site, overwrites)
        else:
            _fill(site, site.inside.path, journal)
        sync_directory(site.folder.path)
    except BaseException:  # also Ctrl-C, between any two steps
        with suppress(OSError, ConvsvcError):  # then it is the next run that settles
            settle(site)
        raise
    return settle(site)


def settle(site: Site) -> list[Note]:
    """Undoes or finishes what was begun of publishing, if anything was. Answers what a user should know. Raises OSError, TargetError."""
    site.check_held()
    if is_directory(site.ended):
        open_private(site.ended).close()  # nobody else's word counts on what is done
        journal = _read_journal(site.ended)
        if journal is not None and site.is_run(journal.run):
            return _finish(site, journal)
        return _undo(site, journal)
    if site.inside is None and is_directory(site.aside):  # an older version died between its two renames
        if not os.path.lexists(site.at):
            os.rename(site.aside, site.at)
        else:
            return _keep(site)
    return []


def discard(site: Site) -> None:
    """Removes the staging directory, if any; what was begun of publishing is undone, or finished. Raises OSError, TargetError."""
    settle(site)
    site.check_held()
    if is_directory(site.staging):
        (site.staging / FENCE).unlink(missing_ok=True)  # late workers look for it
    remove_private(site.staging)


def is_published(target: Path) -> bool:
    """Whether a job that was being published is: its staging directory has become the target. Raises OSError."""
    if not target.is_dir():
        return False
    staging = staging_path(target)
    if not staging.exists():
        return True
    ended = staging.with_name(ENDED if staging.parent == target else f"{staging.name}-ended")
    journal = _read_journal(ended)
    return journal is not None and is_run(target, journal.run)


def tidy_published(target: Path, roots: Roots = ANYWHERE, holder: Holder | None = None) -> None:
    """Removes what a crash just after the target was moved into place has left beside it. `holder` is who does, by default this process.

    Raises TargetBusy, TargetError, PathRefused.
    """
    with _left_behind(target, roots, holder) as site:
        settle(site)


def discard_left(target: Path, roots: Roots = ANYWHERE, holder: Holder | None = None) -> None:
    """Removes the staging directory that an earlier run has left, if any; the target stays as it is. `holder` as in `tidy_published`.

    Raises TargetBusy, TargetError, PathRefused.
    """
    with _left_behind(target, roots, holder) as site:
        discard(site)


@contextmanager
def _left_behind(target: Path, roots: Roots, holder: Holder | None) -> Iterator[Site]:
    site = open_site(Path(roots.check(str(target), "target.path", inside=True)), roots, holder or this_process())
    try:
        with target_errors(target):
            yield site
    finally:
        site.close()


def _swap(site: Site, overwrites: bool) -> None:
    has_content = site.has_content()
    site.check_held()
    if not has_content:
        os.rename(site.staging, site.at)  # also over an empty directory
    elif not overwrites:
        raise TargetExists(f"{site.target} appeared while it was made", do="choose another target", details={"target": str(site.target)})
    elif not exchange(site.staging, site.at):
        os.rename(site.at, site.aside)
        site.check_held()
        os.rename(site.staging, site.at)


def _fill(site: Site, inside: Path, journal: Journal) -> None:
    """Old content goes aside, new content comes up. May go on where an earlier one stopped."""
    if journal.moved:
        with suppress(FileExistsError):
            site.aside.mkdir(0o700)
    for name in journal.moved:
        is_new = name in journal.new and not os.path.lexists(site.staging / name)
        if os.path.lexists(inside / name) and not is_new:
            site.check_held()
            rename_new(inside / name, site.aside / name)
    for name in journal.new:
        if os.path.lexists(site.staging / name):
            site.check_held()
            rename_new(site.staging / name, inside / name)


def plan_filling(site: Site, staged: OpenFolder, plan: Plan, old: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A journal's `moved` and `new`. Small files (trackers, indexes) go before large ones, directories last; they come the other way
    round, just after the manifest, with which the target is the new one. Raises OSError."""
    tops = {PurePosixPath(path).parts[0] for path in old}
    last = {PurePosixPath(side.path).parts[0] for side in plan.side_files if side.last}
    new = sorted(set(os.listdir(staged.path)) - {PRIVATE}, key=lambda name: (2 if name in last else name == MANIFEST, name))
    if site.inside is None:
        return (), ()
    inside = site.inside.path

    def weight(name: str) -> tuple[bool, int, str]:
        status = os.lstat(inside / name)
        return stat.S_ISDIR(status.st_mode), status.st_size, name

    return tuple(sorted(tops, key=weight)), tuple(new)


def _finish(site: Site, journal: Journal) -> list[Note]:
    if site.inside is None and is_directory(site.staging):
        os.rename(site.staging, site.aside)  # the old one: the names were exchanged
    if site.inside is not None:
        _fill(site, site.inside.path, journal)
        sync_directory(site.inside.path)
        if is_directory(site.staging):
            os.rmdir(site.staging)
    site.check_held()
    notes = _remove_old(site, journal)
    notes += put_beside(site, site.ended)
    site.check_held()
    remove_private(site.ended)
    return notes


def _undo(site: Site, journal: Journal | None) -> list[Note]:
    notes: list[Note] = []
    if site.inside is not None and journal is not None:
        _unfill(site, site.inside.path, journal)
    elif is_directory(site.aside):
        if os.path.lexists(site.at):
            notes = _keep(site)
        else:
            os.rename(site.aside, site.at)
    if is_directory(site.staging):
        left = open_private(site.staging)
        try:
            if not (left.path / PRIVATE).exists():
                os.rename(site.ended, left.path / PRIVATE)
        finally:
            left.close()
    remove_private(site.ended)
    return notes


def _unfill(site: Site, inside: Path, journal: Journal) -> None:
    for name in reversed(journal.new):
        if os.path.lexists(inside / name) and not os.path.lexists(site.staging / name):
            site.check_held()
            rename_new(inside / name, site.staging / name)
    if is_directory(site.aside):
        for name in os.listdir(site.aside):
            rename_new(site.aside / name, inside / name)
        os.rmdir(site.aside)


def _remove_old(site: Site, journal: Journal) -> list[Note]:
    try:
        gone = remove_listed(site.aside, journal.old)
    except OSError:
        gone = False  # it may be somebody else's, in a directory that is ours
    return [] if gone else _keep(site)


def _keep(site: Site) -> list[Note]:
    """What is aside gets a name that people see: something is in it that nobody may remove."""
    kept = site.kept()
    os.rename(site.aside, kept)
    return [Note("advice", f"the old target held what was not made there, or could not be removed: what is left of it is in {shown(kept)}")]


def _read_journal(ended: Path) -> Journal | None:
    """None where there is none: an older version's."""
    try:
        data = json.loads((ended / PurePosixPath(JOURNAL).name).read_bytes())
        return Journal(data["run"], tuple(data["old"]), tuple(data["moved"]), tuple(data["new"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
