"""Positioned reads and writes on planned files: large ones around the page cache, the rest through it.

Where a file system has no direct I/O everything goes through the page cache, which is asked to let go of it again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from contextlib import suppress

from convsvc.errors import StorageError
from convsvc.execute.disk.direct import DirectFiles
from convsvc.execute.disk.faults import source_changed, storage_error
from convsvc.execute.disk.open_files import OpenFiles
from convsvc.execute.steps.alignment import LEAST_BYTES
from convsvc.execute.steps.inputs import Read
from convsvc.plan.records import PlannedFile
from convsvc.roots import ANYWHERE, Roots
from convsvc.roots.beneath import open_beneath, parent_beneath
from convsvc.units import in_time

# Writing back starts after this many bytes of a file, so that syncing at the end finds little left to do.
WRITE_BACK_BYTES = 32 << 20
# Short runs are gathered in the page cache until the next tiles have filled the gaps between them: so many times as long.
GATHERING = 8
SYNC_FILE_RANGE_WRITE = 2
# Runs with gaps are read ahead as a whole, where that is at most so many times what one tile wants.
MOST_READ_AHEAD = 8

_libc = ctypes.CDLL(None, use_errno=True)


class Reader:
    """Reads ranges of planned source files, with positioned reads; never maps a file. Used by one thread at a time.

    `bytes_direct` of the `bytes_read` went around the page cache.
    """

    def __init__(self, files: Sequence[PlannedFile], directory: int, roots: Roots = ANYWHERE) -> None:
        self._files = OpenFiles(files, directory, os.O_RDONLY, roots)
        self._direct = DirectFiles(files, directory, os.O_RDONLY, roots)
        self._cached: set[int] = set()
        self.bytes_read = self.bytes_direct = 0

    def read_into(self, file: int, file_offset: int, target: memoryview) -> None:
        """Fills `target` from `file_offset` on.

        Raises SourceChanged where the file is not the planned one or ends too early, StorageError where it cannot be read.
        """
        path = self._files.files[file].path
        try:
            descriptor, fresh = self._files.descriptor(file)
            if fresh:
                self._check(file, os.fstat(descriptor))
            direct = done = self._direct.read(file, file_offset, target)
            while done < len(target):
                got = os.preadv(descriptor, [target[done:]], file_offset + done)
                if got == 0:
                    raise source_changed(path, f"{self._files.files[file].size_bytes} bytes", f"ends at byte {file_offset + done}")
                done += got
            if done - direct >= LEAST_BYTES:
                os.posix_fadvise(descriptor, file_offset + direct, done - direct, os.POSIX_FADV_DONTNEED)
        except FileNotFoundError:
            raise source_changed(path, "a file", "nothing") from None
        except OSError as error:
            raise storage_error(error, path, "reading") from error
        self.bytes_read += len(target)
        self.bytes_direct += direct

    def read(self, read: Read, target: memoryview) -> None:
        """Fills `target` with all runs of the read. Raises as `read_into`."""
        size = read.size_bytes
        if read.times == 1 or size >= LEAST_BYTES:
            for n in range(read.times):
                self.read_into(read.file, read.file_offset + n * read.step_bytes, target[n * size : (n + 1) * size])
            return
        self.read_into(read.file, read.file_offset, target[:size])  # opens and checks the file
        try:
            descriptor, _ = self._files.descriptor(read.file)
            self._read_ahead(descriptor, read)
            for n in range(1, read.times):
                piece = target[n * size : (n + 1) * size]
                if os.preadv(descriptor, [piece], read.file_offset + n * read.step_bytes) < size:
                    self.read_into(read.file, read.file_offset + n * read.step_bytes, piece)
                else:
                    self.bytes_read += size
        except OSError as error:
            raise storage_error(error, self._files.files[read.file].path, "reading") from error

    def _read_ahead(self, descriptor: int, read: Read) -> None:
        # What lies between the runs is wanted by the next tiles: the disk reads it in one go, and the page cache keeps it.
        span = read.step_bytes * (read.times - 1) + read.size_bytes
        if span <= MOST_READ_AHEAD * read.total_bytes:
            os.posix_fadvise(descriptor, read.file_offset, span, os.POSIX_FADV_WILLNEED)
        self._cached.add(read.file)

    def check_unchanged(self) -> None:
        """Raises SourceChanged if a file that was read is no longer what planning saw."""
        for file in sorted(self._files.used):
            try:
                self._check(file, self._files.stat(file))
            except FileNotFoundError:
                raise source_changed(self._files.files[file].path, "a file", "nothing") from None

    def close(self) -> None:
        for file in self._cached:
            with suppress(OSError):  # the file may be gone; then so is what was kept of it
                os.posix_fadvise(self._files.descriptor(file)[0], 0, 0, os.POSIX_FADV_DONTNEED)
        self._files.close()
        self._direct.close()

    def _check(self, file: int, found: os.stat_result) -> None:
        planned = self._files.files[file]
        if found.st_size != planned.size_bytes:
            raise source_changed(planned.path, f"{planned.size_bytes} bytes", f"{found.st_size} bytes")
        if planned.mtime_ns and found.st_mtime_ns != planned.mtime_ns:
            raise source_changed(planned.path, f"modified at {in_time(planned.mtime_ns)}", f"modified at {in_time(found.st_mtime_ns)}")


class Writer:
    """Writes ranges of target files that exist already. Used by one thread at a time.

    `bytes_direct` of the `bytes_written` went around the page cache.
    """

    def __init__(self, files: Sequence[PlannedFile], directory: int, roots: Roots = ANYWHERE) -> None:
        self._files = OpenFiles(files, directory, os.O_WRONLY, roots)
        self._direct = DirectFiles(files, directory, os.O_WRONLY, roots)
        self._unsynced: dict[int, int] = {}
        self.bytes_written = self.bytes_direct = 0

    def write_from(self, file: int, file_offset: int, source: memoryview) -> None:
        """Writes all of `source` from `file_offset` on. Raises NoSpace or StorageError."""
        try:
            descriptor, _ = self._files.descriptor(file)
            direct = self._direct.write(file, file_offset, source)
            for part in (range(direct.start), range(direct.stop, len(source))):
                done = part.start
                while done < part.stop:
                    done += os.pwritev(descriptor, [source[done : part.stop]], file_offset + done)
            self._write_back(file, descriptor, len(source) - len(direct))
        except OSError as error:
            raise storage_error(error, self._files.files[file].path, "writing") from error
        self.bytes_written += len(source)
        self.bytes_direct += len(direct)

    def write_runs(self, file: int, file_offset: int, source: memoryview, size_bytes: int, step_bytes: int) -> None:
        """Writes `source` in runs of `size_bytes`, `step_bytes` apart from `file_offset` on. Raises as `write_from`."""
        starts = range(0, len(source), size_bytes)
        if len(starts) == 1 or size_bytes >= LEAST_BYTES:
            for n, start in enumerate(starts):
                self.write_from(file, file_offset + n * step_bytes, source[start : start + size_bytes])
            return
        try:
            descriptor, _ = self._files.descriptor(file)
            for n, start in enumerate(starts):
                done = os.pwritev(descriptor, [source[start : start + size_bytes]], file_offset + n * step_bytes)
                self.bytes_written += done
                if done < size_bytes:
                    self.write_from(file, file_offset + n * step_bytes + done, source[start + done : start + size_bytes])
            self._write_back(file, descriptor, len(source) // GATHERING)
        except OSError as error:
            raise storage_error(error, self._files.files[file].path, "writing") from error

    def sync(self) -> None:
        """Returns when everything written is on stable storage; drops it from the page cache."""
        for file in sorted(self._files.used):
            try:
                descriptor, _ = self._files.descriptor(file)
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError as error:
                raise storage_error(error, self._files.files[file].path, "syncing") from error

    def close(self) -> None:
        self._files.close()
        self._direct.close()

    def _write_back(self, file: int, descriptor: int, count: int) -> None:
        self._unsynced[file] = self._unsynced.get(file, 0) + count
        if self._unsynced[file] >= WRITE_BACK_BYTES:
            self._unsynced[file] = 0
            start_write_back(descriptor)
            # Drops what is on the disk by now, so that the cache holds little of what nobody will read.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def start_write_back(descriptor: int) -> None:
    """Asks the kernel to begin writing the file's dirty pages, without waiting. Where it cannot, nothing is lost."""
    call = getattr(_libc, "sync_file_range", None)
    if call is not None:
        call(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)


def write_atomically(directory: int, path: str, data: bytes, attempt: str) -> None:
    """Makes the file at `path` (relative to the directory) be `data`, whole or not at all, and durable. Raises ConvsvcError."""
    try:
        with parent_beneath(directory, path) as (parent, name):
            temporary = f"{name}.{attempt}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        raise storage_error(error, path, "writing") from error


def read_whole(directory: int, path: str) -> bytes:
    """The content of a small file. Raises StorageError; a file that is not there means that the staging is gone."""
    try:
        descriptor = open_beneath(directory, path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise StorageError(f"{path} is gone from the staging directory", do="was the job canceled or run again?") from None
        raise storage_error(error, path, "reading") from error
