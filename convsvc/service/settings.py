"""What the service is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from convsvc.service.store.database import default_database_url
from convsvc.service.webhooks.hosts import Webhooks, webhooks_from


@dataclass(frozen=True, slots=True)
class Settings:
    """`plan_timeout_s` and `plans_at_once` bound `POST /plans`; an executor silent for `executor_silence_s` is gone.

    With `require_tokens` every request needs a token, even on loopback before one was made. What is known of a token is believed for
    `token_cache_s`: a token that is revoked lets nobody in after that. `max_body_bytes` is of any request's body.
    `refusals_per_minute` is how often an address may come with a token that is no good.
    `memory_limit_bytes` is what a worker may need; None: whatever it needs.
    `webhooks` are those that a job may name: without the environment's word none.
    `events_poll_s` is how often an event stream looks for news, `ping_s` how often it says that it is alive.
    """

    database_url: str = field(default_factory=default_database_url)
    plan_timeout_s: float = 60
    plans_at_once: int = 2
    max_body_bytes: int = 1 << 20
    require_tokens: bool = False
    token_cache_s: float = 3
    refusals_per_minute: int = 30
    memory_limit_bytes: int | None = None
    require_executor: bool = True
    executor_silence_s: float = 30
    webhooks: Webhooks = field(default_factory=webhooks_from)
    events_poll_s: float = 0.25
    ping_s: float = 15
