"""A server in a thread of the test's own process, for as long as the test wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from convsvc.service.serve import listening_url


@contextmanager
def listening(config: uvicorn.Config) -> Iterator[str]:
    """Serves until the end of the block; gives the address."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in 30 s"
            time.sleep(0.005)
        yield listening_url(server)
    finally:
        server.should_exit = True
        thread.join(10)
