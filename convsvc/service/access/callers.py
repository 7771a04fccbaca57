"""Who may come in: the caller of a request, from its bearer token.

A service without a token made is open to whoever works on its machine, and to nobody else: only over loopback, not through a
proxy, not for a web page that a browser shows there. Once a token exists every request needs one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakValueDictionary

from anyio import Lock
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool
from structlog.contextvars import bind_contextvars

from convsvc.errors import ServiceError
from convsvc.service.access.audit import NOBODY, Audit
from convsvc.service.access.identity import LOOPBACK, Caller, Scope
from convsvc.service.access.limits import Buckets, neighbourhood, refuse_after
from convsvc.service.access.local import check_local, is_local
from convsvc.service.access.queries import refuse_unknown_queries
from convsvc.service.access.tokens import USED_EVERY, KnownToken, Tokens, id_of
from convsvc.service.errors import Forbidden, StoreAway, Unauthorized
from convsvc.service.settings import Settings
from convsvc.service.store.changes import now_utc
from convsvc.service.store.database import Database

_log = logging.getLogger("convsvc.access")

MOST_KNOWN = 10_000
BELIEVED_S = 60.0  # how long what is known of a token holds while the store does not answer
REFUSAL_BURST = 10
AUDITED_REFUSALS_PER_MINUTE = 60  # of all addresses together: strangers must not fill the database

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="A token made with `convsvc token create`. A service on loopback for which none was made asks for none.",
)
Documented = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


@dataclass(slots=True)
class _Seen:
    """A token as the store had it at a moment of this process's clock, and when its use was noted last."""

    token: KnownToken
    at: float
    noted: float | None = None


class Access:
    """Decides on every request. One an application; everything but the store's look-ups is done on its event loop."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.tokens, self.audit, self.settings = Tokens(database), Audit(database), settings
        self._seen: dict[str, _Seen] = {}
        # A lock a token: whoever asks for a second time waits for the first answer; others do not wait for it.
        self._asking: WeakValueDictionary[str, Lock] = WeakValueDictionary()
        self._tokens_exist, self._asked_at = False, float("-inf")
        self._listing, self._listed, self._listed_at = Lock(), frozenset[str](), float("-inf")
        self._requests, self._refusals, self._audited = Buckets(), Buckets(), Buckets()

    async def caller(self, request: Request, text: str | None) -> Caller:
        """Who asks. Raises Unauthorized, Forbidden, TooManyRequests."""
        if await self._is_open(request):
            check_local(request)
            return LOOPBACK
        token = await self._token(request, text)
        self._count(token)
        await self._note_use(token)
        return token.caller

    async def still_welcome(self, request: Request) -> bool:
        """Whether the token that opened a long answer would still do: asked now and then while it goes on. Counts as no request."""
        if await self._is_open(request):
            return True
        # The console keeps the token in its session's cookie, and says here which one has opened the page.
        text = getattr(request.state, "token", None) or bearer_of(request)
        token_id = id_of(text) if text else None
        token = await self._known(token_id) if token_id else None
        return token is not None and token.fits(text or "") and token.view.state(now_utc()) == "usable"

    async def refuse_scope(self, request: Request, caller: Caller, scope: Scope) -> None:
        """Raises Forbidden unless the caller has the scope."""
        if caller.may(scope):
            return
        await self._audit(request, caller.name, caller.tenant, Forbidden.slug, {"needs": scope, "path": request.url.path})
        raise Forbidden(
            f"this needs the scope {scope}; the token {caller.name} has {', '.join(sorted(caller.scopes))}",
            do=f"ask an administrator for: convsvc token create --name {caller.name} --tenant {caller.tenant} {_scopes(caller, scope)}",
            details={"needs": scope, "has": sorted(caller.scopes)},
        )

    async def _is_open(self, request: Request) -> bool:
        """Whether no token is asked for. Once a token was seen this never comes back while the process lives, whatever is removed."""
        if self.settings.require_tokens or not is_local(request):
            return False
        if not self._tokens_exist and time.monotonic() - self._asked_at > self.settings.token_cache_s:
            self._tokens_exist = await run_in_threadpool(self.tokens.any)
            self._asked_at = time.monotonic()
        return not self._tokens_exist

    async def _token(self, request: Request, text: str | None) -> KnownToken:
        if text is None:
            raise _unauthorized("this service asks for a token")
        token_id = id_of(text)
        if token_id not in self._seen:
            # An address that goes on with bad tokens is turned away before the store is asked, but for tokens that there are:
            # behind a proxy that is not trusted all come from one address.
            wait_s = self._refusals.peek(_place(request), self.settings.refusals_per_minute)
            if wait_s and not (token_id and await self._exists(token_id)):
                _refuse_address(wait_s)
        token = await self._known(token_id) if token_id else None
        if token is None or not token.fits(text):
            raise await self._refused(request, "unknown token", {"token": token_id} if token_id else {})
        state = token.view.state(now_utc())
        if state != "usable":
            raise await self._refused(request, f"{state} token", {"token": token_id}, token.caller)
        return token

    async def _known(self, token_id: str) -> KnownToken | None:
        lock = self._asking.setdefault(token_id, Lock())
        async with lock:
            seen = self._seen.get(token_id)
            age_s = time.monotonic() - seen.at if seen is not None else float("inf")
            if seen is not None and age_s <= self.settings.token_cache_s:
                return seen.token
            try:
                found = await run_in_threadpool(self.tokens.find, token_id)
            except StoreAway:
                if seen is not None and age_s <= BELIEVED_S:
                    return seen.token  # what the store said last: while it is away nobody can have revoked it
                raise
            self._remember(token_id, found, seen)
            return found

    async def _exists(self, token_id: str) -> bool:
        """Whether there is a token of that id, as the store said within the last seconds: who tries ids costs it one look a while."""
        async with self._listing:
            if time.monotonic() - self._listed_at > self.settings.token_cache_s:
                self._listed_at = time.monotonic()
                self._listed = await run_in_threadpool(self.tokens.ids)
        return token_id in self._listed

    def _remember(self, token_id: str, found: KnownToken | None, before: _Seen | None) -> None:
        self._seen.pop(token_id, None)
        if found is not None:
            self._seen[token_id] = _Seen(found, time.monotonic(), before.noted if before else None)
        if len(self._seen) > MOST_KNOWN:
            del self._seen[next(iter(self._seen))]

    async def _refused(self, request: Request, outcome: str, detail: dict[str, Any], bearer: Caller | None = None) -> Unauthorized:
        rate = self.settings.refusals_per_minute
        _refuse_address(self._refusals.take(_place(request), rate, burst=max(REFUSAL_BURST, rate / 3)))
        actor, tenant = (bearer.name, bearer.tenant) if bearer else (NOBODY, NOBODY)
        await self._audit(request, actor, tenant, outcome, {"path": request.url.path, **detail})
        return _unauthorized(f"the token is no good: {outcome}")

    async def _audit(self, request: Request, actor: str, tenant: str, outcome: str, detail: dict[str, Any]) -> None:
        if self._audited.take("all", AUDITED_REFUSALS_PER_MINUTE):
            _log.warning("refused, and not in the audit as too many were: %s from %s", outcome, address_of(request))
            return
        await run_in_threadpool(self.audit.refused, actor, tenant, address_of(request), outcome, detail)

    def _count(self, token: KnownToken) -> None:
        if token.requests_per_minute is not None:
            wait_s = self._requests.take(token.view.tenant, token.requests_per_minute)
            what = f"tenant {token.view.tenant} may make {token.requests_per_minute} requests a minute"
            refuse_after(wait_s, what, do="ask less often, or for more: convsvc tenant set --requests-per-minute")

    async def _note_use(self, token: KnownToken) -> None:
        seen, now = self._seen.get(token.view.id), time.monotonic()
        if seen is None or (seen.noted is not None and now - seen.noted < USED_EVERY.total_seconds()):
            return
        seen.noted = now
        await run_in_threadpool(self.tokens.used, token.view.id)


def _scopes(caller: Caller, scope: Scope) -> str:
    """The options for a token that may what this one may, and that too; who may submit wants to look at his jobs."""
    wanted = {*caller.scopes, scope, *(["jobs:read"] if scope == "jobs:write" else [])}
    return " ".join(f"--scope {name}" for name in sorted(wanted))


def _place(request: Request) -> str:
    return neighbourhood(address_of(request) or "")


def _refuse_address(wait_s: float) -> None:
    refuse_after(wait_s, "too many requests with bad tokens came from this address", do="come with a token that is good")


def _unauthorized(text: str) -> Unauthorized:
    return Unauthorized(text, do="send the header Authorization: Bearer cvs_...; `convsvc token create` makes tokens")


def address_of(request: Request) -> str | None:
    """The client's address, as far as is known: behind a proxy that uvicorn trusts, what the proxy says."""
    return request.client.host if request.client else None


def bearer_of(request: Request) -> str | None:
    """The token in the request's header."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" and text.strip() else None


async def still_welcome(request: Request) -> bool:
    """`Access.still_welcome` of the application."""
    access: Access = request.app.state.access
    return await access.still_welcome(request)


async def caller(request: Request, scopes: SecurityScopes, _: Documented) -> Caller:
    """FastAPI's way to `Access`: who asks, if he has the scopes that the route names."""
    access: Access = request.app.state.access
    found = await access.caller(request, bearer_of(request))
    bind_contextvars(tenant=found.tenant)  # for the request's lines in the log
    for scope in scopes.scopes:
        await access.refuse_scope(request, found, scope)  # type: ignore[arg-type]  # routes name Scopes; FastAPI knows only strings
    refuse_unknown_queries(request)
    return found


async def caller_if_known(request: Request) -> Caller | None:
    """For routes that are open to all, but say more to those who may come in."""
    access: Access = request.app.state.access
    try:
        return await access.caller(request, bearer_of(request))
    except ServiceError:  # refused, or the store that would know him is away
        return None


# A route's first parameter, so that nothing of the request is looked at before: `caller: Reader`.
Anyone = Annotated[Caller, Security(caller)]
Reader = Annotated[Caller, Security(caller, scopes=["jobs:read"])]
Writer = Annotated[Caller, Security(caller, scopes=["jobs:write"])]
Scraper = Annotated[Caller, Security(caller, scopes=["metrics"])]
Admin = Annotated[Caller, Security(caller, scopes=["admin"])]
MaybeCaller = Annotated[Caller | None, Depends(caller_if_known)]
