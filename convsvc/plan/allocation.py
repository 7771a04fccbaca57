"""Making very many records at once, without Python's collector looking through all of them time and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Stops the collection of reference cycles for a while, in the whole process; a context manager, or a decorator.

    The plan of a trillion parameters is a million records, which refer to each other and never in a circle. Reference counts free
    them; the collector frees none of them, and takes a quarter of the planning's time to find that out.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # All that is new counts as old from here on: else the first thing made after this would have all of it looked through.
            gc.freeze()
            gc.unfreeze()
            gc.enable()
