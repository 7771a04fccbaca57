"""The one exception to tokens: requests from this machine to a service that listens on loopback and has none.

A web page is the danger there: any site that a browser on this machine shows can send requests to 127.0.0.1, and by DNS rebinding
(its own name, pointed at 127.0.0.1) read the answers too. The Host header, Origin and Sec-Fetch-Site give it away.
"""

from __future__ import annotations

from starlette.requests import Request

from convsvc.loopback import is_loopback
from convsvc.service.errors import Forbidden

PROXIES_SAY = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
OF_THIS_SITE = ("same-origin", "none")  # "none": the user typed the address


def is_local(request: Request) -> bool:
    """Whether the connection came in on a loopback address; which one the service listens on does not matter."""
    server = request.scope.get("server")
    return server is not None and is_loopback(str(server[0]))


def check_local(request: Request) -> None:
    """Raises Forbidden for what a program of this machine's user would not send."""
    wrong = _wrong(request)
    if wrong:
        raise Forbidden(
            f"without tokens this service answers programs on its own machine only; {wrong}",
            do="make a token (convsvc token create) and send it; from then on every request needs one",
        )


def _wrong(request: Request) -> str | None:
    headers = request.headers
    host = headers.get("host", "")
    proxied = next((name for name in PROXIES_SAY if name in headers), None)
    if proxied:
        return f"this request came through a proxy: it has {proxied}"
    if not is_loopback(host_name(host)):
        return f"this request's Host is {host!r}, which is no loopback address"
    origin = headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{host}":
        return f"this request is of a web page of {origin[:100]!r}"
    site = headers.get("sec-fetch-site", "none")
    return None if site in OF_THIS_SITE else f"this request is of a web page elsewhere: Sec-Fetch-Site is {site[:100]!r}"


def host_name(host: str) -> str:
    """A Host header without its port.

    >>> host_name("127.0.0.1:8765"), host_name("[::1]:80"), host_name("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
