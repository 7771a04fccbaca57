"""`convsvc executor`: the executor as a child, which is started again when it ends and killed when it hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from convsvc.service.executor.bounds import Bounds
from convsvc.service.executor.pulse import Pulse, pulse_file
from convsvc.service.executor.supervisor import Supervisor
from convsvc.service.observe.json_logs import VARIABLE, Format, format_from_environment, set_up_logs
from convsvc.service.store.database import Database, default_database_url
from convsvc.service.store.retrying import retried


def run_supervised(
    *,
    database_url: str | None = None,
    engine: str = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    memory_limit_bytes: int | None = None,
    log_format: Format | None = None,
    **bounds: Any,
) -> int:
    """Keep an executor running until SIGTERM or SIGINT. Raises StoreAway, as what cannot start once is not tried for ever."""
    form = log_format or format_from_environment()
    set_up_logs(form)
    url = database_url or default_database_url()
    _prepare(url)
    command = executor_command(engine, workers, ray_address, memory_limit_bytes, Bounds(**bounds))
    supervisor = Supervisor(command, {"CONVSVC_DATABASE_URL": url, VARIABLE: form}, heard=Pulse(pulse_file()).beat)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    supervisor.start()
    ending.wait()
    supervisor.stop()
    return 0


def executor_command(
    engine: str, workers: int | None, ray_address: str | None, memory_limit_bytes: int | None = None, bounds: Bounds | None = None
) -> list[str]:
    """How the executor is started as a child of this process. The database's URL may hold a password: it goes by the environment."""
    command = [sys.executable, "-m", "convsvc.service.executor", "--engine", engine]
    command += ["--parent", str(os.getpid())]
    command += (bounds or Bounds()).words()
    if workers:
        command += ["--workers", str(workers)]
    if memory_limit_bytes:
        command += ["--memory-limit-bytes", str(memory_limit_bytes)]
    return [*command, "--ray-address", ray_address] if ray_address else command


def _prepare(url: str) -> None:
    database = Database(url)
    try:
        retried(database.migrate)()
    finally:
        database.close()
