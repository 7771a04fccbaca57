"""Hosts with a network of their own on this machine: network namespaces on a switch, sharing the file system. For root only."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.fault.fleet import until


@dataclass(frozen=True)
class Host:
    """A namespace, its address, and its cable's end at the switch."""

    name: str
    address: str
    switch: str

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], text=True, start_new_session=True, **more)

    def end_all(self) -> None:
        """Kills every process on the host."""
        until(lambda: not _killed(self.name), f"the end of all processes on {self.name}")

    def pull_cable(self) -> None:
        ip("-n", self.switch, "link", "set", self.name, "down")

    def plug_in_cable(self) -> None:
        ip("-n", self.switch, "link", "set", self.name, "up")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def missing() -> str | None:
    """Why there can be no hosts here."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    name = f"cv{secrets.token_hex(2)}"
    try:
        ip("netns", "add", name)
    except FileNotFoundError:
        return "ip is not installed (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"
    ip("netns", "delete", name)
    return None


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, 10.77.0.1 and on, and their switch; what runs on them is killed and all is removed at the end."""
    mark = secrets.token_hex(2)
    switch = f"cv{mark}s"
    made = [Host(f"cv{mark}h{number}", f"10.77.0.{number}", switch) for number in range(1, count + 1)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for host in made:
            _connect(host)
        yield made
    finally:
        for name in [host.name for host in made] + [switch]:
            _remove(name)


def _connect(host: Host) -> None:
    ip("netns", "add", host.name)
    ip("link", "add", host.name, "netns", host.switch, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    ip("-n", host.switch, "link", "set", host.name, "master", "bridge", "up")
    ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        ip("-n", host.name, "link", "set", device, "up")


def _remove(name: str) -> None:
    if name in ip("netns", "list"):
        until(lambda: not _killed(name), f"the end of all processes on {name}")
        ip("netns", "delete", name)


def _killed(name: str) -> list[str]:
    pids = ip("netns", "pids", name).split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return pids
