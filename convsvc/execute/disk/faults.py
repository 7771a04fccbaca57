"""What an operating system's error means for a conversion."""

from __future__ import annotations

import errno
import os

from convsvc.errors import ConvsvcError, NoSpace, SourceChanged, StorageError

FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "disk quota exceeded", errno.EFBIG: "file larger than allowed"}


def storage_error(error: OSError, path: str, doing: str) -> ConvsvcError:
    """The error to raise for `error`, met while `doing` ("reading", "writing") something to `path`.

    A full file system is NoSpace, which trying again does not help; everything else is a StorageError.
    """
    code = error.errno or 0
    details = {"path": path, "errno": errno.errorcode.get(code, code)}
    if code in FULL:
        do = "free space on the target's file system and resume"
        return NoSpace(f"{FULL[code]} while {doing} {path}", do=do, details=details)
    return StorageError(f"{doing} {path} failed: {os.strerror(code) if code else error}", details=details)


def source_changed(path: str, was: str, now: str) -> SourceChanged:
    """A source file is not what planning saw."""
    return SourceChanged(
        f"{path} changed since it was planned",
        facts=[f"planned: {was}", f"now: {now}"],
        do="run the job again when nothing writes to the source",
        details={"path": path, "planned": was, "found": now},
    )
