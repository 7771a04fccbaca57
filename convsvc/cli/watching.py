"""What following commands share: Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convsvc.cli.terminal import say


@contextmanager
def goes_on(job_id: str, command: str) -> Iterator[None]:
    """Ctrl-C ends what is shown here, not the job: say so, and how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\njob {job_id} goes on; come back to it: convsvc {command} {job_id}; end it: convsvc cancel {job_id}", err=True)
        raise
