"""A checkpoint's files, whatever its format: their headers, and each file as it was when they were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from convsvc.dialects.checkpoint import SourceFile
from convsvc.errors import SourceError
from convsvc.formats import FORMATS, describe_file, format_of
from convsvc.roots import RootedPath

# Files whose headers are read at once.
READERS = 8


def check_directory(root: RootedPath) -> None:
    """Raises SourceError for what is no directory, saying what it is."""
    if root.is_dir():
        return
    if not root.exists():
        raise SourceError(f"{root} does not exist")
    raise SourceError(f"{root} is {describe_file(root)[0]}, not a directory", do="give the directory that holds the checkpoint")


def index_files(paths: Sequence[RootedPath], kinds: Sequence[str] = ()) -> Iterator[tuple[Any, SourceFile]]:
    """`index_file` of each path, in their order; several are read at once, as a thousand files are mostly waiting on shared storage."""
    with ThreadPoolExecutor(READERS, "convsvc-index") as pool:
        yield from pool.map(index_file, paths, kinds or repeat(None))


def index_file(path: RootedPath, kind: str | None = None) -> tuple[Any, SourceFile]:
    """A weight file's index, and the file as it was then; of the kind that its first bytes tell, if none is known."""
    before = path.look()
    if before is None:
        raise SourceError(f"{path} does not exist")
    kind = kind or format_of(path)
    if kind is None:
        what, do = describe_file(path)
        raise SourceError(f"{path} is {what}", facts=[f"it is of no format that is read: {', '.join(FORMATS)}"], do=do)
    index = FORMATS[kind].read_index(path)
    return index, SourceFile(before[0], kind, before[1].st_size, before[1].st_mtime_ns, path.path, index.digest)


def root_of(names: Iterable[str]) -> str:
    """The keys of a torch file that all its tensors lie under: DeepSpeed's "module/", "state_dict/" and the like; empty for none.

    >>> root_of(["module/a.weight", "module/b.weight"]), root_of(["a.weight"])
    ('module/', '')
    """
    heads = Counter(name.rpartition("/")[0] for name in names)
    return next(iter(heads)) + "/" if len(heads) == 1 and next(iter(heads)) else ""
