"""The demo's own `convsvc serve` on a free loopback port; stopped at the end, by the process that was started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
CONVSVC = [sys.executable, "-m", "convsvc.cli.main"]


def convsvc(*args: str) -> None:
    """Run one command of the CLI and show it."""
    print(f"$ convsvc {' '.join(args)}", flush=True)
    subprocess.run([*CONVSVC, *args], check=True)


class RunningService:
    """A context in which the service answers on `url`. Its log and its job store are in `work`."""

    def __init__(self, work: Path) -> None:
        self.work, self.log_path = work, work / "service.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningService:
        command = ["serve", "--port", str(self.port), "--engine", "ray", "--workers", "2"]
        print(f"$ convsvc {' '.join(command)}", flush=True)
        with self.log_path.open("wb") as log:
            environment = {**os.environ, "CONVSVC_HOME": str(self.work / "state")}
            self.process = subprocess.Popen([*CONVSVC, *command], stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if error is not None:
            print(f"the service's log ends:\n{self.log_tail()}", file=sys.stderr)

    def wait_until_ready(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while not answers(f"{self.url}/readyz"):
            if self.process is None or self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the service did not start; its log ends:\n{self.log_tail()}")
            time.sleep(0.2)
        print(f"   ready on {self.url}", flush=True)

    def stop(self) -> None:
        """SIGTERM, which lets it drain; SIGKILL if it does not end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-30:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
