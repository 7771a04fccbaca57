"""Who asks: the caller of a request, from its token, and what it may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["jobs:read", "jobs:write", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is the token's, for the audit; `tenant` owns what is submitted; `sees` the tenant whose jobs are seen, None for all.

    `roots` are the directories in which his jobs must stay: None for anywhere, empty for nowhere (none are configured yet).

    >>> Caller("ci", "team-a", frozenset({"jobs:read"})).may("jobs:write")
    False
    """

    name: str
    tenant: str
    scopes: frozenset[str]
    roots: tuple[str, ...] | None = None

    def may(self, scope: Scope) -> bool:
        """An admin may everything."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def sees(self) -> str | None:
        return None if "admin" in self.scopes else self.tenant


# Who asks a service that listens on loopback and knows no tokens: everybody on this machine, as its user.
LOOPBACK = Caller("loopback", "default", frozenset(SCOPES))
