"""Removing a whole target that has to give way: only what a conversion has made there, and only where that is all there is."""

from __future__ import annotations

from pathlib import Path

from convsvc.dialects.output import MANIFEST
from convsvc.errors import TargetExists
from convsvc.execute.staging.folders import is_directory
from convsvc.execute.staging.holders import Holder, this_process
from convsvc.execute.staging.manifest import Manifest, find_changed, find_foreign, list_contents, read_manifest, remove_listed, shorten
from convsvc.execute.staging.report_files import beside, read_report, remove_beside
from convsvc.execute.staging.sites import NOT_CONTENT, Site, open_site, target_errors
from convsvc.roots import ANYWHERE, Roots


def remove_target(target: Path, plan: str, roots: Roots = ANYWHERE, holder: Holder | None = None) -> bool:
    """Removes a target that the plan with this fingerprint made, and its report beside it; False where nothing is there.

    The manifest goes last, so that what a crash leaves can be removed by another call. Raises TargetExists where something else lies in
    it, or something of it was changed; TargetBusy, TargetError, StorageError, PathRefused.
    """
    target = Path(roots.check(str(target), "target.path", inside=True))
    if not is_directory(target):
        return False
    site = open_site(target, roots, holder or this_process())
    try:
        with target_errors(target):
            return _remove(site, plan, roots)
    finally:
        site.close()


def _remove(site: Site, plan: str, roots: Roots) -> bool:
    folder = site.inside.path if site.inside else site.at
    manifest = read_manifest(folder)
    if manifest is None or manifest.plan != plan:
        raise TargetExists(f"{site.target} was not made by the job whose target is to be removed", details={"target": str(site.target)})
    found = list_contents(folder, NOT_CONTENT if site.inside else ())
    foreign = find_foreign(found, {MANIFEST: None, **{name: size for name, (size, _) in manifest.files.items()}})
    foreign = foreign or find_changed(folder, manifest)
    if foreign:
        raise TargetExists(
            f"{site.target} holds what no conversion has made there; it is not removed",
            facts=shorten(foreign),
            do="move that away, or remove the directory yourself",
            details={"target": str(site.target)},
        )
    _forget_report(site, manifest, roots)
    remove_listed(folder, set(manifest.files) - {MANIFEST})
    remove_listed(folder, {MANIFEST})
    return True


def _forget_report(site: Site, manifest: Manifest, roots: Roots) -> None:
    """The report beside the target and its card, if they are of the run that made the target."""
    place, report = read_report(site.target, roots)
    if place == str(beside(site.target)) and report.get("run") == manifest.run:
        remove_beside(site)
