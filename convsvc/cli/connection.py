"""Reaching the service from the command line: which one, with which token, and what to do where it lets us not in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convsvc.cli.human import duration
from convsvc.cli.options import Service
from convsvc.cli.terminal import say
from convsvc.errors import ConvsvcError, JobError, ServiceError

if TYPE_CHECKING:
    from convsvc.client import Client

LONG_S = 2.0
MAKE_ONE = "an administrator of the service makes one: convsvc token create --name NAME --tenant TENANT"


@contextmanager
def connect(service: Service) -> Iterator[Client]:
    """A client of the service; nothing is sent yet. Errors that pass through it say what a person at a terminal can do."""
    with _without_httpx_cli():
        from convsvc.client import Client

    token = _token_in(service.token_file) if service.token_file else None
    with Client(service.url, token, allow_insecure=service.allow_insecure, on_wait=_say_wait) as client:
        try:
            yield client
        except ServiceError as error:
            raise _for_people(error, has_token=bool(token or os.environ.get("CONVSVC_TOKEN"))) from error


def _say_wait(seconds: float, why: ConvsvcError) -> None:
    """A pause that a person would take for a hang."""
    if seconds >= LONG_S:
        say(f"waiting for {duration(seconds)}: {why.message}", err=True)


@contextmanager
def _without_httpx_cli() -> Iterator[None]:
    """Let httpx be imported without its own command line: that takes rich and pygments along where they are installed (55 ms of 97).

    httpx does without where the import fails, and None makes it fail: https://docs.python.org/3/reference/import.html#the-module-cache
    """
    name = "httpx._main"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # typeshed has modules only
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop(name, None)


def _token_in(path: str) -> str:
    """The token in a file. Raises JobError; an empty file is no token, and must not become an anonymous request."""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise JobError(f"--token-file {path}: {reason}") from None
    if not token:
        raise JobError(f"--token-file {path}: the file is empty", do=MAKE_ONE)
    return token


def _for_people(error: ServiceError, *, has_token: bool) -> ConvsvcError:
    after_s = error.details.get("retry_after_s")
    if error.http_status == 401:
        given = "$CONVSVC_TOKEN or --token-file has one that is no longer good, or of another service" if has_token else "none was given"
        error.facts += (given,)
        error.do = f"put a token into $CONVSVC_TOKEN or a file for --token-file; {MAKE_ONE}"
    elif isinstance(after_s, int | float):
        error.facts += (f"it was tried again as long as that made sense; there is room again in {after_s:g} s",)
    return error
