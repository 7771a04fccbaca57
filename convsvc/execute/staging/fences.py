"""The fence: a number in the staging directory that grows whenever somebody opens or seals it.

A worker is told the number that held when its call was made. It looks before its first write, before each further one, and before
it declares its task done; when the number has grown, a later run is at work or the files are sealed, and the worker ends without
another byte. This is what stops a worker that was thought dead: nothing else can, since its open files outlive every lock.

Reading the number opens the file anew each time: that is what NFS and its kin answer from the server, where a `stat` may be answered
from a cache. Between the look and the write lie microseconds; a worker that is stopped just there and continued later writes,
with one call, the bytes that are there already, since a task writes the same bytes to the same places whoever runs it.
"""

from __future__ import annotations

import os
from pathlib import Path

from convsvc.errors import StorageError, Superseded
from convsvc.execute.disk.faults import storage_error
from convsvc.execute.disk.io import write_atomically
from convsvc.execute.staging.marks import FENCE
from convsvc.roots.beneath import open_beneath


def read_fence(directory: int) -> int | None:
    """The number that holds in the staging directory; None where it has none: it is not made yet, published, or being removed.

    Raises StorageError.
    """
    try:
        descriptor = open_beneath(directory, FENCE, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return int(os.read(descriptor, 32) or b"0")
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, FENCE, "reading") from error


def raise_fence(path: Path, at_least: int = 0) -> int:
    """Makes a larger number hold in the staging directory `path`, `at_least` or more, and says which. Durable. Raises ConvsvcError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = max((read_fence(directory) or 0) + 1, at_least)
        write_atomically(directory, FENCE, str(number).encode(), str(number))
    finally:
        os.close(directory)
    return number


def check_fence(directory: int, mine: int) -> None:
    """Raises Superseded if a larger number than `mine` holds, StorageError if the directory is no staging directory any more."""
    found = read_fence(directory)
    if found is None:
        raise StorageError("the staging directory is gone or has been published", do="was the job canceled or run again?")
    if found > mine:
        raise Superseded(
            f"the staging directory has moved on to fence {found}, this worker has fence {mine}",
            do="nothing: a later run does this task, or its files are sealed",
            details={"fence": mine, "found": found},
        )
