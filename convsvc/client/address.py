"""Where the service is, and the token it knows us by."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from convsvc.loopback import is_loopback
from convsvc.service.errors import BadAddress, InsecureAddress

DEFAULT_URL = "http://127.0.0.1:8765"
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """A service's URL and our token, which no text about this object shows."""

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL without the name and password that may be in it: for errors."""
        return re.sub(r"//[^/]*@", "//", self.url, count=1)

    def http_options(self, timeout_s: float) -> dict[str, Any]:
        """What httpx's clients, the sync and the async one, are made with. HTTP/1.1; proxies are those of the environment."""
        import httpx

        options: dict[str, Any] = {"base_url": self.url, "timeout": httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))}
        # uvicorn closes a connection that was idle for 5 s: one that is about to be closed is not used again.
        options["limits"] = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=3)
        if self.token:
            options["headers"] = {"Authorization": f"Bearer {self.token}"}
        parts = urlsplit(self.url)
        if parts.scheme == "http":
            # Loading the certificates that https needs takes 0.13 s. A context without any refuses https, should a proxy lead there.
            options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if is_loopback(parts.hostname or ""):
            # A proxy's own loopback is not ours, and the token is not for it.
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            options["mounts"] = {f"all://{host}": None}
        return options


def find_address(url: str | None = None, token: str | None = None, *, allow_insecure: bool = False) -> Address:
    """The address from what is given, else from $CONVSVC_URL, $CONVSVC_TOKEN, $CONVSVC_ALLOW_INSECURE; else this machine's, with no token.

    Raises BadAddress, or InsecureAddress where the token would go over a network unencrypted and that is not allowed.
    """
    wanted = (url or os.environ.get("CONVSVC_URL") or DEFAULT_URL).rstrip("/")
    found = Address(wanted, _checked_token(token or os.environ.get("CONVSVC_TOKEN")))
    parts = _checked_parts(found)
    trusted = allow_insecure or os.environ.get("CONVSVC_ALLOW_INSECURE") == "1"
    if found.token and not trusted and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise InsecureAddress(
            f"the token is not sent to {found.shown}: everybody on the way could read it",
            do="use https, or say that the network is trusted: --allow-insecure, $CONVSVC_ALLOW_INSECURE=1, allow_insecure=True",
            details={"url": found.shown},
        )
    return found


def _checked_parts(address: Address) -> SplitResult:
    try:
        parts = urlsplit(address.url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        usable = False
    if not usable:
        raise BadAddress(f"{address.shown} is no address of a service", do=f"give one like {DEFAULT_URL} or https://convsvc.example.org")
    return parts


def _checked_token(token: str | None) -> str | None:
    """The token without the line end of the file it came from. What is wrong with it is said without showing it."""
    stripped = (token or "").strip()
    if not all("!" <= character <= "~" for character in stripped):
        raise BadAddress("the token has a space, a line end or another character that no token has", do="give it as it was printed")
    return stripped or None
