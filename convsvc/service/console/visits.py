"""A browser's visit: what its cookies say, and what it must say so that a form counts as its own.

The token that was entered is kept in a session cookie, which only the console's own pages send, and no script reads. A form bears a
word that follows from that cookie and from a random one: a page elsewhere knows neither, and its Origin gives it away, too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, Request, Response, Security
from fastapi.security import SecurityScopes
from structlog.contextvars import bind_contextvars

from convsvc.service.access.callers import Access
from convsvc.service.access.identity import Caller
from convsvc.service.console.languages import Language, language_of
from convsvc.service.errors import Forbidden

HOME = "/ui"
SESSION, SEED, LANGUAGE = "convsvc_session", "convsvc_seed", "convsvc_language"
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
MOST_FIELDS = 2000
YEAR_S = 365 * 24 * 3600
_SEED_FORM = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Visit:
    """`token` is what was entered, None before that; `seed` is random; `is_new` says that the browser has not been told of it yet."""

    token: str | None
    seed: str
    language: Language
    is_new: bool = False
    form: dict[str, list[str]] = field(default_factory=dict)
    caller: Caller | None = None

    @property
    def csrf(self) -> str:
        """What every form must bear."""
        return hmac.new(self.seed.encode(), f"csrf {self.token or ''}".encode(), hashlib.sha256).hexdigest()

    def said(self, name: str, default: str = "") -> str:
        """A field of the form that was sent, without the space around it; the last one of that name."""
        return self.form.get(name, [default])[-1].strip()


def visit_of(request: Request) -> Visit:
    """The visit, from the request's cookies."""
    cookies = request.cookies
    seed = cookies.get(SEED, "")
    known = bool(_SEED_FORM.fullmatch(seed))
    language = language_of(cookies.get(LANGUAGE), request.headers.get("accept-language", ""))
    return Visit(cookies.get(SESSION) or None, seed if known else secrets.token_hex(16), language, is_new=not known)


async def check_form(request: Request, visit: Visit) -> None:
    """Reads the form. Raises Forbidden unless a page of the console's own has sent it."""
    wrong = _from_elsewhere(request)
    if wrong is None:
        body = (await request.body()).decode("utf-8", "replace")
        visit.form = parse_qs(body, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        given = request.headers.get(CSRF_HEADER) or visit.said(CSRF_FIELD)
        # As bytes: compare_digest takes no text beyond ASCII.
        if not hmac.compare_digest(given.encode(), visit.csrf.encode()):
            wrong = "it does not bear this session's word"
    if wrong:
        raise Forbidden(f"this form was not sent by a page of this console: {wrong}", do="open the page again, and send it from there")


def _from_elsewhere(request: Request) -> str | None:
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    # The host alone: behind a proxy that is not believed, the scheme is not known.
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"its Origin is {origin[:100]!r}"
    site = request.headers.get("sec-fetch-site", "same-origin")
    return None if site in ("same-origin", "none") else f"its Sec-Fetch-Site is {site[:100]!r}"


def is_link_elsewhere(request: Request) -> bool:
    """Whether a link on another site led here: the browser has kept the session's cookie back, and will send it a moment later."""
    headers = request.headers
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return request.method in ("GET", "HEAD") and navigates and headers.get("sec-fetch-site") in ("cross-site", "same-site")


def keep(request: Request, response: Response, name: str, value: str, *, seconds: int | None = None) -> None:
    """Set a cookie that this console alone is sent, over TLS where the page came so; without `seconds` until the browser is closed."""
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    response.set_cookie(name, value, max_age=seconds, path=HOME, httponly=True, samesite="strict", secure=secure)


def forget(response: Response, name: str) -> None:
    response.delete_cookie(name, path=HOME, httponly=True, samesite="strict")


def safe_way(text: str) -> str:
    """Where to go after the token was entered: a page of the console; its first one for anything else.

    >>> safe_way("/ui/jobs?state=failed"), safe_way("//elsewhere/ui"), safe_way("/ui//elsewhere/../x")
    ('/ui/jobs?state=failed', '/ui/jobs', '/ui//elsewhere/../x')
    """
    plain = text.isascii() and text.isprintable() and "\\" not in text
    return text if plain and re.match(r"/ui(/|\?|$)", text) and not text.startswith("/ui/login") else f"{HOME}/jobs"


def visit(request: Request) -> Visit:
    """The visit that the route has begun with."""
    found: Visit = request.state.visit
    return found


async def caller(request: Request, scopes: SecurityScopes) -> Caller:
    """Who asks, by the session's cookie, if he has the scopes that the route names."""
    access: Access = request.app.state.access
    here = visit(request)
    found = await access.caller(request, here.token)
    request.state.token = here.token  # for `Access.still_welcome`
    here.caller = found
    bind_contextvars(tenant=found.tenant)
    for scope in scopes.scopes:
        await access.refuse_scope(request, found, scope)  # type: ignore[arg-type]  # routes name Scopes; FastAPI knows only strings
    return found


def _security(*scopes: str) -> Any:
    return Security(caller, scopes=list(scopes))


# A route's first parameter, as in the HTTP interface.
Anyone = Annotated[Caller, _security()]
Reader = Annotated[Caller, _security("jobs:read")]
Writer = Annotated[Caller, _security("jobs:write")]
Admin = Annotated[Caller, _security("admin")]
Here = Annotated[Visit, Depends(visit)]
