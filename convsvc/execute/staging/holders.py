"""Who holds a target's lock: a process, described so that it can be told from any other, and the claim it works for."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that opens a staging directory. `job` and `claim` are the service's job and its claim's fence; a run without the
    service has neither. `boot`, `pids` and `started` (the machine's boot, its PID namespace, the process's start in clock ticks since
    the boot) make the process unmistakable where a process id alone is soon another's.
    """

    host: str = ""
    pid: int = 0
    boot: str = ""
    pids: str = ""
    started: str = ""
    job: str = ""
    claim: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether this very process still lives where its id means the same as here."""
        return bool(self.boot) and (self.boot, self.pids) == (_boot(), _pids()) and _started(self.pid) == self.started

    def end(self) -> bool:
        """Kills the process if it is on this machine, and says whether it was. Never this process itself."""
        if self.pid == os.getpid() or not self.is_here:
            return False
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            # Looked at again: the descriptor now means one process for good, and that shall be the holder.
            if not self.is_here:
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError:
            return False  # it has just ended, or is another user's
        finally:
            os.close(descriptor)
        return True


def this_process(job: str = "", claim: int = 0) -> Holder:
    """This process as a holder."""
    return Holder(socket.gethostname(), os.getpid(), _boot(), _pids(), _started(os.getpid()), job, claim)


def holder_from_dict(data: dict[str, Any]) -> Holder:
    """The holder whose `as_dict` is in `data`, which may hold less, or more."""
    return Holder(**{field.name: data[field.name] for field in fields(Holder) if field.name in data})


def _boot() -> str:
    return _text("/proc/sys/kernel/random/boot_id")


def _pids() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of /proc/PID/stat; the second one, the name in parentheses, may hold anything. Empty if there is no such process."""
    after_name = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return after_name[19] if len(after_name) > 19 else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
