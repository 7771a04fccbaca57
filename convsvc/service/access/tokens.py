"""Bearer tokens: what they look like, and the store of those that were made.

A token reads `cvs_<id>_<secret>`: the id is no secret, it names the token in lists and in the audit; the secret is 256 random
bits. Only the SHA-256 of the whole is kept. A guess would take 2**255 tries, so that a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from convsvc.service.access.audit import add_entry
from convsvc.service.access.identity import SCOPES, Caller
from convsvc.service.access.tenants import existing_tenant
from convsvc.service.errors import NoSuchToken, WrongValue
from convsvc.service.store.changes import now_utc
from convsvc.service.store.database import Database
from convsvc.service.store.models import TenantRow, TokenRow
from convsvc.service.store.retrying import retried, store_away

State = Literal["usable", "expired", "revoked"]

USED_EVERY = timedelta(minutes=1)  # `last_used_at` is written at most this often: a busy token is not a write a request
LONGEST_NAME = 200
_FORM = re.compile(r"cvs_([0-9a-f]{12})_[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it is listed: everything but what lets one in."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def state(self, now: datetime) -> State:
        """Revoked counts before expired."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "usable"


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token with its digest, who it makes of the bearer, and how often his tenant may ask."""

    view: TokenView
    digest: str
    caller: Caller
    requests_per_minute: int | None

    def fits(self, text: str) -> bool:
        """Whether `text` is this token, secret and all; as quick where they differ early as where they differ late."""
        return hmac.compare_digest(digest_of(text), self.digest)


def new_token() -> tuple[str, str]:
    """A token's id and its text.

    >>> token_id, text = new_token()
    >>> id_of(text) == token_id
    True
    """
    token_id = secrets.token_hex(6)
    return token_id, f"cvs_{token_id}_{secrets.token_hex(32)}"


def id_of(text: str) -> str | None:
    """The id of what has a token's form; None for anything else.

    >>> id_of("cvs_123"), id_of("cvs_0123456789ab_" + 64 * "f")
    (None, '0123456789ab')
    """
    found = _FORM.fullmatch(text)
    return found[1] if found else None


def digest_of(text: str) -> str:
    """What is kept of a token: the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()


class Tokens:
    """The tokens in the job store. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, name: str, tenant: str, scopes: Iterable[str], *, expires_at: datetime | None, actor: str) -> tuple[TokenView, str]:
        """Make a token; its text is returned this once. Raises NoSuchTenant, WrongValue for an unknown scope or a time that has passed."""
        wanted = _checked_scopes(scopes)
        if expires_at is not None and expires_at <= now_utc():
            raise WrongValue(f"a token that expires at {expires_at.isoformat()} has expired already", do="give it a day or more")
        if not 0 < len(name) <= LONGEST_NAME:
            raise WrongValue(f"a token's name has 1 to {LONGEST_NAME} characters; this one has {len(name)}")
        token_id, text = new_token()
        row = TokenRow(id=token_id, name=name, tenant=tenant, scopes=wanted, digest=digest_of(text), created_at=now_utc())
        row.expires_at = expires_at
        with self.database.writing() as session:
            existing_tenant(session, tenant)
            session.add(row)
            session.flush()
            add_entry(session, actor=actor, tenant=tenant, action="token.create", detail=_said(row))
            return _view(row), text

    def list(self, tenant: str | None = None) -> list[TokenView]:
        """All tokens, or a tenant's, oldest first; those that are of no use any more too."""
        query = select(TokenRow).order_by(TokenRow.created_at, TokenRow.id)
        with self.database.reading() as session:
            return [_view(row) for row in session.scalars(query if tenant is None else query.where(TokenRow.tenant == tenant))]

    def revoke(self, token_id: str, *, actor: str) -> TokenView:
        """Make a token useless; doing it twice is the same as once. Raises NoSuchToken."""
        with self.database.writing() as session:
            row = session.get(TokenRow, token_id)
            if row is None:
                raise NoSuchToken(f"there is no token {token_id}", do="`convsvc token list` shows their ids", details={"token": token_id})
            if row.revoked_at is None:
                row.revoked_at = now_utc()
                add_entry(session, actor=actor, tenant=row.tenant, action="token.revoke", detail=_said(row))
            return _view(row)

    def find(self, token_id: str) -> KnownToken | None:
        """The token of that id, usable or not. Asked once: every request waits for the answer, and whoever asks can ask again.

        Raises StoreAway.
        """
        query = select(TokenRow, TenantRow).join(TenantRow, TenantRow.name == TokenRow.tenant).where(TokenRow.id == token_id)
        try:
            with self.database.reading() as session:
                found = session.execute(query).first()
                return None if found is None else _known(found[0], found[1])
        except (DBAPIError, PoolTimeout) as error:
            raise store_away(error) from error

    @retried
    def any(self) -> bool:
        """Whether a token was ever made, though it may be of no use any more."""
        with self.database.reading() as session:
            return session.scalars(select(TokenRow.id).limit(1)).first() is not None

    def ids(self) -> frozenset[str]:
        """The ids of all tokens. Asked once, as in `find`. Raises StoreAway."""
        try:
            with self.database.reading() as session:
                return frozenset(session.scalars(select(TokenRow.id)))
        except (DBAPIError, PoolTimeout) as error:
            raise store_away(error) from error

    def usable(self) -> int:
        """How many tokens let somebody in now."""
        with self.database.reading() as session:
            return int(session.scalar(_usable()) or 0)

    @retried
    def used(self, token_id: str) -> None:
        """Note that the token was used, unless that was noted within the last minute."""
        now = now_utc()
        stale = or_(TokenRow.last_used_at.is_(None), TokenRow.last_used_at <= now - USED_EVERY)
        with self.database.writing() as session:
            session.execute(update(TokenRow).where(TokenRow.id == token_id, stale).values(last_used_at=now))


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    given = set(scopes)
    unknown = sorted(given - set(SCOPES))
    if unknown or not given:
        shown = ", ".join(unknown) or "none"
        raise WrongValue(f"a token's scopes are some of {', '.join(SCOPES)}; given {shown}", details={"unknown": unknown})
    return [scope for scope in SCOPES if scope in given]


def _usable() -> Select[int]:
    lasting = or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now_utc())
    return select(func.count()).select_from(TokenRow).where(TokenRow.revoked_at.is_(None), lasting)


def _view(row: TokenRow) -> TokenView:
    scopes = tuple(row.scopes)
    return TokenView(row.id, row.name, row.tenant, scopes, row.created_at, row.expires_at, row.revoked_at, row.last_used_at)


def _known(row: TokenRow, tenant: TenantRow) -> KnownToken:
    caller = Caller(row.name, row.tenant, frozenset(row.scopes), tuple(tenant.roots))
    return KnownToken(_view(row), row.digest, caller, tenant.requests_per_minute)


def _said(row: TokenRow) -> dict[str, object]:
    return {"token": row.id, "name": row.name, "scopes": row.scopes, "expires_at": row.expires_at and row.expires_at.isoformat()}
