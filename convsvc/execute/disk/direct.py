"""Large transfers around the page cache (O_DIRECT), in whole blocks; the ends of a range are for the caller.

Going through the page cache copies every byte into fresh memory, which costs more than the disk does. A direct transfer wants
its file offset, length and memory aligned. Buffers are laid out so that memory and file agree modulo a block wherever they can
(`steps.alignment`); where they do not, the bytes pass through a small aligned buffer.

Direct and buffered writes may share a file here because they never share a block: what is written directly are whole blocks
of which this task writes every byte, and what is written through the cache are the blocks at the ends of its regions, which a
neighbour's task, or the file's header, may share. The page cache merges those; a page of it is never larger than such a write.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import numpy as np

from convsvc.execute.disk.open_files import OpenFiles
from convsvc.execute.steps.alignment import BLOCK_BYTES, LEAST_BYTES, Bytes, aligned_bytes
from convsvc.plan.records import PlannedFile
from convsvc.roots import ANYWHERE, Roots

BOUNCE_BYTES = 4 << 20
# How a file system says that it has no direct I/O: tmpfs on opening, FUSE and overlays also later.
REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
# For mounts whose direct I/O misbehaves: set to 0, everything goes through the page cache.
SWITCH = "CONVSVC_DIRECT_IO"


class DirectFiles:
    """Planned files opened for direct I/O; those that refuse are remembered. Used by one thread at a time."""

    def __init__(self, files: Sequence[PlannedFile], directory: int, flags: int, roots: Roots = ANYWHERE) -> None:
        self._files = OpenFiles(files, directory, flags | getattr(os, "O_DIRECT", 0), roots)
        self._wanted = hasattr(os, "O_DIRECT") and os.environ.get(SWITCH, "1") != "0"
        self._refused: set[int] = set()
        self._bounce: Bytes = aligned_bytes(BOUNCE_BYTES)
        self._edges = [aligned_bytes(BLOCK_BYTES).data for _ in range(2)]

    def close(self) -> None:
        self._files.close()

    def read(self, file: int, file_offset: int, target: memoryview) -> int:
        """Fills the first bytes of `target`; says how many: fewer than all where the file ends or refuses. Raises OSError."""
        if not self._takes(file, len(target)):
            return 0
        try:
            descriptor, _ = self._files.descriptor(file)
            if (_address(target) - file_offset) % BLOCK_BYTES == 0:
                return self._read_in_place(descriptor, file_offset, target)
            return self._read_by_bounce(descriptor, file_offset, target)
        except OSError as error:
            return self._refuse(file, error)

    def write(self, file: int, file_offset: int, source: memoryview) -> range:
        """Writes whole blocks of a range; says which bytes of `source` are done (none where the file refuses). Raises OSError."""
        head, stop = -file_offset % BLOCK_BYTES, (file_offset + len(source)) // BLOCK_BYTES * BLOCK_BYTES - file_offset
        if not self._takes(file, len(source)) or stop <= head:
            return range(0)
        try:
            descriptor, _ = self._files.descriptor(file)
            return range(head, head + self._write_blocks(descriptor, file_offset + head, source[head:stop]))
        except OSError as error:
            return range(self._refuse(file, error))

    def _takes(self, file: int, size_bytes: int) -> bool:
        return self._wanted and size_bytes >= LEAST_BYTES and file not in self._refused

    def _refuse(self, file: int, error: OSError) -> int:
        if error.errno not in REFUSALS:
            raise error
        self._refused.add(file)
        return 0

    def _read_in_place(self, descriptor: int, file_offset: int, target: memoryview) -> int:
        """One read: its first and last block to a side buffer if they are not whole, all between them to their place."""
        head, tail = -file_offset % BLOCK_BYTES, (file_offset + len(target)) % BLOCK_BYTES
        first, last = self._edges
        middle = target[head : len(target) - tail]
        parts = [*([first] if head else []), middle, *([last] if tail else [])]
        skipped = (BLOCK_BYTES - head) % BLOCK_BYTES
        got = os.preadv(descriptor, parts, file_offset - skipped) - skipped
        if head:
            target[:head] = first[skipped:]
        if tail and got > len(target) - tail:
            target[len(target) - tail :] = last[:tail]
        return max(0, min(got, len(target)))

    def _read_by_bounce(self, descriptor: int, file_offset: int, target: memoryview) -> int:
        done = 0
        while done < len(target):
            skipped = (file_offset + done) % BLOCK_BYTES
            wanted = min(len(target) - done, BOUNCE_BYTES - skipped)
            piece = self._bounce.data[: -(-(skipped + wanted) // BLOCK_BYTES) * BLOCK_BYTES]
            got = min(os.preadv(descriptor, [piece], file_offset + done - skipped) - skipped, wanted)
            if got > 0:
                target[done : done + got] = piece[skipped : skipped + got]
                done += got
            if got < wanted:
                break
        return done

    def _write_blocks(self, descriptor: int, file_offset: int, source: memoryview) -> int:
        in_place = _address(source) % BLOCK_BYTES == 0
        done = 0
        while done < len(source):
            piece = source[done:] if in_place else self._bounced(source[done : done + BOUNCE_BYTES])
            whole = os.pwritev(descriptor, [piece], file_offset + done) // BLOCK_BYTES * BLOCK_BYTES
            if whole == 0:  # the disk is full: the caller's own write will say so
                break
            done += whole
        return done

    def _bounced(self, piece: memoryview) -> memoryview:
        bounce = self._bounce.data[: len(piece)]
        bounce[:] = piece
        return bounce


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
