"""Calling the webhooks of jobs that have ended: signed, tried again until they are taken, never led astray.

What is to be called is a row, written in the transaction in which the job ends; so a call may come twice (its `X-Convsvc-Delivery` is
the same then), and is not lost whatever process dies.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import httpx
from anyio.to_thread import run_sync
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

import convsvc
from convsvc.errors import ServiceError
from convsvc.notes import Note
from convsvc.service.errors import NoSuchJob
from convsvc.service.store.announcing import DELIVERED, FAILED, WAITING
from convsvc.service.store.changes import add_log, locked_job
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.models import DeliveryRow
from convsvc.service.store.retrying import retried
from convsvc.service.store.tallies import Tally, add_tallies
from convsvc.service.webhooks.hosts import HOSTS, SECRET, Webhooks, host_of, resolve

_log = logging.getLogger("convsvc.webhooks")

MOST_ATTEMPTS = 8
AT_ONCE = 8
CALL_TIMEOUT_S = 10.0
MOST_ANSWER_BYTES = 64 << 10
# After the first failure, tripled with each further one: the eighth attempt is about two hours after the first.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
# Where this process cannot call at all, another one may: only what is due for so long is told of.
UNSENT_S = 30.0
# A delivery that is taken is not taken again for so long; then whoever took it has died.
TAKEN_S = 60.0

UNSENT = (
    f"no executor may send it: {HOSTS} and {SECRET} are not set where the executor runs; set them there as they are set for the API, "
    "and it is sent"
)

Resolver = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt at a call; `attempt` counts from 1."""

    id: int
    job_id: str
    attempt: int
    url: str
    body: dict[str, Any]


class NotDelivered(ServiceError):
    title, slug = "webhook not delivered", "webhook-not-delivered"


def signature(secret: str, body: bytes, at: int) -> str:
    """The header that shows who sent `body`, and when (seconds since 1970): HMAC-SHA256 over "at.body".

    >>> signature("0123456789abcdef", b"{}", 1700000000)[:30]
    't=1700000000,v1=e4f8e2ecae2295'
    """
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def pause_s(attempt: int) -> float:
    """How long to wait after so many attempts, at most; some chance is taken off it, so that not all come back at once.

    >>> [pause_s(attempt) for attempt in (1, 2, 3, 7)]
    [10.0, 30.0, 90.0, 3600.0]
    """
    return min(FIRST_PAUSE_S * 3.0 ** (attempt - 1), LONGEST_PAUSE_S)


class Deliverer:
    """Calls what is due, in a thread of its own, `AT_ONCE` at once. Several, in several processes, do not get in each other's way."""

    def __init__(
        self,
        database: Database,
        webhooks: Webhooks,
        *,
        resolver: Resolver = resolve,
        timeout_s: float = CALL_TIMEOUT_S,
        poll_s: float = 1.0,
        pause: Callable[[int], float] = pause_s,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self._database, self._webhooks, self._resolve = database, webhooks, resolver
        self._timeout_s, self._poll_s, self._pause, self._verify = timeout_s, poll_s, pause, verify
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin. Where no webhook may be called, jobs are told that theirs cannot be sent from here."""
        self._thread.start()

    def drain(self) -> None:
        """Begin no more calls. Returns at once; safe in a signal handler."""
        self._stopped.set()

    def stop(self) -> None:
        """End once the calls under way have; what is left is called by the next one."""
        self.drain()
        if self._thread.ident is not None:
            self._thread.join(self._timeout_s + 5)

    def deliver_due(self) -> int:
        """Make one attempt at what is due now, and say at how many."""
        if not self._webhooks.enabled:
            self._tell_unsent()
            return 0
        due = self._take() if self._is_any_due() else []
        if due:
            anyio.run(self._call_all, due)
        return len(due)

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                busy = self.deliver_due()
            except Exception:  # the database is away: try again, as long as it takes
                _log.exception("no webhook could be called")
                busy = 0
            if busy < AT_ONCE:
                self._stopped.wait(self._poll_s)

    def _is_any_due(self) -> bool:
        with self._database.reading() as session:
            return session.scalars(_due(session).with_only_columns(DeliveryRow.id).limit(1)).first() is not None

    @retried
    def _tell_unsent(self) -> None:
        """Says once, in the job's log and among its notes, that its webhook waits for an executor that may call it."""
        with self._database.reading() as session:
            unsent = session.execute(_unsent(session).limit(AT_ONCE)).all()
        for delivery_id, job_id in unsent:
            with self._database.writing() as session:
                try:
                    job = locked_job(session, job_id)
                except NoSuchJob:
                    continue
                row = session.get(DeliveryRow, delivery_id, with_for_update=True)
                if row is None or row.state != WAITING or row.error == UNSENT:
                    continue
                row.error = UNSENT
                add_log(session, job, f"webhook to {httpx.URL(row.url).host}: {UNSENT}", level="warning")
                if job.result is not None:
                    note = Note("advice", f"the webhook was not sent: {UNSENT}").as_dict()
                    job.result = {**job.result, "notes": [*job.result.get("notes", ()), note]}
            _log.warning("webhook: %s", UNSENT, extra={"job": job_id})

    @retried
    def _take(self) -> list[Delivery]:
        with self._database.writing() as session:
            rows = session.scalars(_due(session).limit(AT_ONCE).with_for_update(skip_locked=True)).all()
            for row in rows:
                row.attempts, row.next_at = row.attempts + 1, now_of(session) + timedelta(seconds=TAKEN_S)
            return [Delivery(row.id, row.job_id, row.attempts, row.url, row.body) for row in rows]

    async def _call_all(self, due: list[Delivery]) -> None:
        verify = self._verify = self._verify or httpx.create_ssl_context()
        limits = httpx.Limits(max_keepalive_connections=0)
        # No proxy of the environment: it would resolve the name again. A redirect would lead where nobody has looked.
        async with (
            httpx.AsyncClient(verify=verify, trust_env=False, follow_redirects=False, timeout=self._timeout_s, limits=limits) as client,
            anyio.create_task_group() as calls,
        ):
            for delivery in due:
                calls.start_soon(self._call, client, delivery)

    async def _call(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        error: str | None = None
        try:
            with anyio.fail_after(self._timeout_s):
                await self._post(client, delivery)
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except (ServiceError, httpx.HTTPError, OSError, ValueError) as failed:
            error = failed.message if isinstance(failed, ServiceError) else f"{type(failed).__name__}: {failed}"
        await run_sync(self._settle, delivery, error)

    async def _post(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        url = self._webhooks.hosts.check(delivery.url)
        host, port = host_of(url), url.port or (443 if url.scheme == "https" else 80)
        found = await run_sync(self._resolve, host, port, abandon_on_cancel=True)
        body = json.dumps(delivery.body, separators=(",", ":")).encode()
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": f"convsvc/{convsvc.__version__}",
            "Content-Type": "application/json",
            "X-Convsvc-Delivery": str(delivery.id),
            "X-Convsvc-Signature": signature(self._webhooks.secret, body, int(time.time())),
        }
        # The address that was checked is called; the certificate must still be the name's.
        there = url.copy_with(host=self._webhooks.hosts.choose(host, found))
        async with client.stream("POST", there, content=body, headers=headers, extensions={"sni_hostname": host}) as answer:
            await _read_some(answer)
            if not answer.is_success:
                what = ", a redirect, which is not followed" if answer.is_redirect else ""
                raise NotDelivered(f"the answer was {answer.status_code}{what}")

    @retried
    def _settle(self, delivery: Delivery, error: str | None) -> None:
        """Note how the attempt ended, unless another process has made a later one."""
        with self._database.writing() as session:
            try:
                job = locked_job(session, delivery.job_id)
            except NoSuchJob:
                return  # it was purged meanwhile
            row = session.get(DeliveryRow, delivery.id, with_for_update=True)
            if row is None or row.state != WAITING or row.attempts != delivery.attempt:
                return
            outcome = self._note(session, row, error)
            host = httpx.URL(row.url).host  # not the URL: its path or query may hold a secret
            text = f"webhook to {host}: attempt {row.attempts} {outcome}" + (f": {error}" if error else "")
            add_log(session, job, text, level="info" if error is None else "warning")
            add_tallies(session, job.tenant, [Tally("webhook_attempts", 1, outcome)])
        _log.log(logging.INFO if error is None else logging.WARNING, "%s", text, extra={"job": delivery.job_id})

    def _note(self, session: Session, row: DeliveryRow, error: str | None) -> str:
        now, row.error = now_of(session), error
        if error is None:
            row.state, row.delivered_at = DELIVERED, now
            return "delivered"
        if row.attempts >= MOST_ATTEMPTS:
            row.state = FAILED
            return "failed"
        row.next_at = now + timedelta(seconds=self._pause(row.attempts) * random.uniform(0.5, 1.0))
        return "retried"


async def _read_some(answer: httpx.Response) -> None:
    """Takes what a polite server says, so that it is not cut off, and no more: nobody looks at it."""
    size = 0
    async for piece in answer.aiter_raw():
        size += len(piece)
        if size >= MOST_ANSWER_BYTES:
            return


def _unsent(session: Session) -> Any:
    late = DeliveryRow.next_at <= now_of(session) - timedelta(seconds=UNSENT_S)
    untold = or_(DeliveryRow.error.is_(None), DeliveryRow.error != UNSENT)
    return select(DeliveryRow.id, DeliveryRow.job_id).where(DeliveryRow.state == WAITING, late, untold).order_by(DeliveryRow.next_at)


def _due(session: Session) -> Any:
    return select(DeliveryRow).where(DeliveryRow.state == WAITING, DeliveryRow.next_at <= now_of(session)).order_by(DeliveryRow.next_at)
