"""A PostgreSQL server for the tests: a private cluster in a temporary directory, on a socket in it, or the one that a URL names.

Nothing is flushed to disk unless it runs with DURABLE. A test's database is emptied and used by the next one, which takes a tenth of the
time of a new one.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

URL = "CONVSVC_TEST_POSTGRES_URL"
DURABLE = "-c shared_buffers=64MB -c max_connections=200"
OPTIONS = f"{DURABLE} -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
_DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"


class Postgres:
    """Makes and removes databases on a server; `url` is one of its databases, from which others can be made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = itertools.count()
        self._name = f"convsvc_{os.getpid()}"

    def new(self) -> str:
        """A new database without tables; answers its URL."""
        name = f"{self._name}_{next(self._numbers)}"
        self._run(self.url, f'CREATE DATABASE "{name}"')
        return self.at(name)

    def empty(self, url: str) -> None:
        """Remove every row of the tables, and whoever is still connected."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_DISCONNECT)
            tables = ", ".join(f'"{name}"' for (name,) in connection.execute(_TABLES))
            if tables:
                connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")

    def drop(self, url: str) -> None:
        """Remove the database, also from under those who are still connected."""
        self._run(self.url, f'DROP DATABASE IF EXISTS "{self.name_of(url)}" WITH (FORCE)')

    def at(self, name: str) -> str:
        server, _, query = self.url.partition("?")
        return f"{server.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")

    def name_of(self, url: str) -> str:
        return url.partition("?")[0].rpartition("/")[2]

    def _run(self, url: str, statement: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)


def binaries() -> Path | None:
    """Where initdb is: the newest version that Debian has installed, or what is on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def cluster(bin_dir: Path, options: str = OPTIONS) -> Iterator[Postgres]:
    """Runs a cluster until the block ends. As the user postgres where the tests run as root, since PostgreSQL refuses to."""
    home = Path(tempfile.mkdtemp(prefix="convsvc-postgres-"))  # pytest's are shut to others than root
    user = "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(home, user, user)

    def run(*command: str) -> None:
        done = subprocess.run(command, user=user, group=user, capture_output=True, text=True, cwd=home, timeout=60, check=False)
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    try:
        data, log = home / "data", home / "log"
        run(f"{bin_dir}/initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        private = f"-c listen_addresses='' -c unix_socket_directories='{home}'"
        run(f"{bin_dir}/pg_ctl", "start", "-D", str(data), "-l", str(log), "-w", "-o", f"{options} {private}")
        try:
            yield Postgres(f"postgresql://postgres@/postgres?host={home}")
        finally:
            run(f"{bin_dir}/pg_ctl", "stop", "-D", str(data), "-m", "immediate", "-w")
    finally:
        shutil.rmtree(home, ignore_errors=True)
