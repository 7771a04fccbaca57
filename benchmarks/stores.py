"""The job stores that a benchmark of the service is run on: SQLite, and PostgreSQL as it comes (fsync on) if this machine has a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stores(stated: str | None) -> Iterator[dict[str, str]]:
    """URLs of empty databases by the name of the arm; only the stated one if there is one."""
    if stated:
        yield {stated.partition(":")[0]: stated}
        return
    from tests.service.postgres_server import DURABLE, binaries, cluster

    with tempfile.TemporaryDirectory() as folder:
        urls = {"sqlite": f"sqlite:///{folder}/convsvc.db"}
        bin_dir = binaries()
        if bin_dir is None:
            yield urls
            return
        with cluster(bin_dir, DURABLE) as server:
            yield {**urls, "postgresql": server.new()}
