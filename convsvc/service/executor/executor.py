"""The executor: a process of its own that takes queued jobs from the job store and drives them.

    python -m convsvc.service.executor.executor --database-url URL --engine ray|process|inline [--workers N] [--ray-address HOST:PORT]

It may be killed at any time: its leases expire and the jobs are taken up again by the next executor. On SIGTERM it puts its jobs
back into the queue and ends; what they have written stays, and is gone on with. While the job store is away tasks go on, until the
lease must be taken for lost. A supervisor gives it `--pulse`, a pipe: an executor that is silent there is hung, and is killed.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from structlog.contextvars import bound_contextvars

from convsvc.errors import Canceled, ConvsvcError, EngineAway, ServiceError
from convsvc.service.errors import Draining, LeaseLost
from convsvc.service.executor.bounds import Bounds
from convsvc.service.executor.housekeeping import Housekeeper
from convsvc.service.executor.patience import patient
from convsvc.service.executor.presence import Presence
from convsvc.service.executor.runner import EngineRunner, Runner, StoreListener
from convsvc.service.executor.watcher import Watcher
from convsvc.service.observe.json_logs import FORMATS, Format, set_up_logs
from convsvc.service.observe.tracing import job_spans, set_up_tracing
from convsvc.service.store.claims import Claim, Claims
from convsvc.service.store.database import Database, default_database_url
from convsvc.service.store.retention import retention_from
from convsvc.service.webhooks.calling import Deliverer
from convsvc.service.webhooks.hosts import webhooks_from

_log = logging.getLogger("convsvc.executor")

PULSE_S = 1.0
AWAY_S = 5.0


class Hold:
    """A claim that is being worked on. The heart keeps its lease and hears of a cancel.

    `renewed_at` is when the lease was last asked for and given: it holds for at least `lease_s` from then on.
    """

    def __init__(self, claim: Claim, renewed_at: float, lease_s: float) -> None:
        self.claim = claim
        self.canceled = claim.canceling
        self.refused = False
        self.renewed_at, self._lease_s = renewed_at, lease_s

    def check(self) -> None:
        """Raises LeaseLost if somebody else has the job, or may have it: nobody could be asked for too long."""
        silent_s = time.monotonic() - self.renewed_at
        if self.refused or silent_s > self._lease_s:
            why = "the job store said so" if self.refused else f"the lease could not be renewed for {silent_s:.0f} s"
            raise LeaseLost(f"job {self.claim.job_id} is no longer held by this executor: {why}")


class Executor:
    """Runs jobs, `concurrency` at once, each slot with a runner of its own (an engine serves one thread).

    `beat_s` is how often leases are renewed and cancels noticed, `poll_s` how often an idle slot looks for work.
    """

    def __init__(
        self,
        claims: Claims,
        new_runner: Callable[[], Runner],
        *,
        concurrency: int = 1,
        beat_s: float = 1,
        poll_s: float = 0.5,
        presence: Presence | None = None,
    ) -> None:
        self._presence = presence or Presence(concurrency)
        self.claims, self._new_runner = claims, new_runner
        self._concurrency, self._beat_s, self._poll_s = concurrency, beat_s, poll_s
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._holds: set[Hold] = set()
        self.failed = False

    def drain(self) -> None:
        """Take no more jobs, and put back those that run. Returns at once; safe in a signal handler."""
        self._draining.set()

    def run(self, *, parent: int | None = None, drain_s: float = 30) -> None:
        """Work until `drain` is called, or the process `parent` is gone. Jobs run in threads: Ray takes the main thread's signals."""
        self.claims.heartbeat(self._presence.as_dict())
        heart = threading.Thread(target=self._beat, args=(parent,), name="heart", daemon=True)
        slots = [threading.Thread(target=self._work, name=f"slot-{n}", daemon=True) for n in range(self._concurrency)]
        for thread in (heart, *slots):
            thread.start()
        self._draining.wait()
        deadline = time.monotonic() + drain_s
        for slot in slots:
            slot.join(max(0.0, deadline - time.monotonic()))
        self._stopped.set()
        heart.join(self._beat_s + 1)
        self.claims.sign_off()

    def run_one(self, runner: Runner) -> bool:
        """Take one job and bring it to an end; False if there was none."""
        asked_at = time.monotonic()
        claim = self.claims.claim()
        if claim is None:
            return False
        hold = Hold(claim, asked_at, self.claims.lease_s)
        self._holds.add(hold)
        try:
            with bound_contextvars(job=claim.job_id, tenant=claim.tenant, worker=self.claims.name):
                self._bring_to_end(hold, runner)
        except LeaseLost as lost:
            _log.warning("%s", lost)
        finally:
            self._holds.discard(hold)
        return True

    def _bring_to_end(self, hold: Hold, runner: Runner) -> None:
        claim, claims = hold.claim, patient(self.claims, hold.check)
        _log.info("job %s: run %d begins", claim.job_id, claim.run)
        try:
            with job_spans(self.claims.database, claim) as spans:
                result = _run(runner, claim, StoreListener(claims, claim, spans), lambda: self._should_stop(hold))
        except LeaseLost:
            raise
        except Draining:
            claims.release(claim)
        except EngineAway as away:
            claims.log(claim, str(away), level="warning")
            claims.release(claim)
            raise
        except Canceled as canceled:
            _stop(claims, hold, canceled)
        except ConvsvcError as error:
            claims.fail(claim, error.as_dict())
        except Exception as error:
            _log.exception("job %s", claim.job_id)
            claims.fail(claim, _unforeseen(error).as_dict())
        else:
            claims.succeed(claim, result)
        _log.info("job %s: run %d ends", claim.job_id, claim.run)

    def _should_stop(self, hold: Hold) -> bool:
        # Raising, unlike answering True, leaves the staging directory where the next run finds it.
        hold.check()
        if hold.canceled:
            return True
        if self._draining.is_set():
            raise Draining("the executor ends; the job goes back to the queue")
        return False

    def _work(self) -> None:
        """Ends this executor if it ends early, whatever it was: one that beats and takes no jobs would hold its place for ever."""
        try:
            self._take_jobs()
        except BaseException:
            _log.exception("a slot of the executor ended, so the executor ends")
            self.failed = True
        finally:
            self.drain()

    def _take_jobs(self) -> None:
        runner = self._new_runner()
        while not self._draining.is_set():
            try:
                busy = self.run_one(runner)
            except EngineAway as away:
                _log.warning("%s", away)
                self._presence.away(str(away))
                busy = self._draining.wait(AWAY_S)
            except Exception:  # the database is away: try again, as long as it takes
                _log.exception("no job could be taken")
                busy = False
            if not busy:
                self._draining.wait(self._poll_s)
        runner.close()

    def _beat(self, parent: int | None) -> None:
        while not self._stopped.wait(self._beat_s):
            try:
                self.claims.heartbeat(self._presence.as_dict())
            except Exception as error:
                _log.warning("no heartbeat: %s", error)
            for hold in tuple(self._holds):
                self._renew(hold)
            if parent is not None and os.getppid() != parent:
                self.drain()

    def _renew(self, hold: Hold) -> None:
        asked_at = time.monotonic()
        try:
            hold.canceled = self.claims.renew(hold.claim) or hold.canceled
            hold.renewed_at = asked_at
        except LeaseLost:
            hold.refused = True
        except Exception as error:
            _log.warning("job %s: lease not renewed: %s", hold.claim.job_id, error)


def _run(runner: Runner, claim: Claim, listener: StoreListener, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """The runner's answer, once the store has heard all that the listener holds back."""
    try:
        return runner(claim, listener, should_stop)
    finally:
        listener.flush()


def _stop(claims: Claims, hold: Hold, canceled: Canceled) -> None:
    if hold.canceled:
        claims.stop(hold.claim)
    else:
        claims.fail(hold.claim, canceled.as_dict())  # nobody asked for it here


def run_executor(
    *,
    database_url: str | None = None,
    engine: str = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    memory_limit_bytes: int | None = None,
    concurrency: int = 1,
    task_timeout_s: float = 3600,
    deadline_s: float | None = None,
    autoscaling: bool = False,
    lease_s: float = 15,
    parent: int | None = None,
    pulse: int | None = None,
    log_format: Format | None = None,
) -> int:
    """Work until SIGTERM or SIGINT. `pulse` is the file descriptor of a pipe, on which a byte a second says that this process lives."""
    if pulse is not None:
        threading.Thread(target=_beat_on, args=(pulse,), name="pulse", daemon=True).start()
    set_up_logs(log_format)
    set_up_tracing()
    database = Database(database_url or default_database_url())
    database.migrate()
    name = f"{socket.gethostname()}:{os.getpid()}"
    claims = Claims(database, name, engine=engine, lease_s=lease_s)
    presence, bounds = Presence(concurrency), Bounds(concurrency, task_timeout_s, deadline_s, autoscaling)

    def new_runner() -> Runner:
        return EngineRunner(engine, workers, ray_address, memory_limit_bytes, presence, bounds)

    executor = Executor(claims, new_runner, concurrency=concurrency, presence=presence)
    deliverer = Deliverer(database, webhooks_from())
    for secret in ("CONVSVC_DATABASE_URL", "CONVSVC_WEBHOOK_SECRET"):
        os.environ.pop(secret, None)  # workers inherit the environment, and have no use for these
    housekeeper = Housekeeper(database, retention_from())
    watcher = Watcher(database, name, lease_s=lease_s)
    _on_signals(executor.drain, deliverer.drain, housekeeper.drain, watcher.drain)
    deliverer.start()
    housekeeper.start()
    watcher.start()
    executor.run(parent=parent)
    watcher.stop()
    housekeeper.stop()
    deliverer.stop()
    database.close()
    return int(executor.failed)


def _on_signals(*drains: Callable[[], None]) -> None:
    def drain_all(*_: object) -> None:
        for drain in drains:
            drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain_all)


def _beat_on(pipe: int) -> None:
    """Until nobody listens any more. A thread of its own: the heart may wait for the database, which is not hanging."""
    os.set_blocking(pipe, False)
    os.set_inheritable(pipe, False)
    while True:
        try:
            os.write(pipe, b".")
        except BlockingIOError:  # the listener is slow: it will find enough to read
            pass
        except OSError:
            return
        time.sleep(PULSE_S)


def _unforeseen(error: Exception) -> ServiceError:
    return ServiceError(
        f"{type(error).__name__}: {error}",
        do="this is a fault in convsvc: report it with the executor's log, which has the traceback",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m convsvc.service.executor", description="Run jobs from the job store.")
    url = os.environ.get("CONVSVC_DATABASE_URL")
    parser.add_argument("--database-url", default=url, help="SQLAlchemy URL of the job store (default: $CONVSVC_DATABASE_URL, or SQLite)")
    parser.add_argument("--engine", choices=("ray", "process", "inline"), default="ray", help="where tasks run")
    parser.add_argument("--workers", type=int, help="tasks at once (default: what the engine finds)")
    parser.add_argument("--ray-address", help="a running Ray cluster (default: a local one)")
    parser.add_argument("--memory-limit-bytes", type=int, help="a job for which a worker may need more is not started")
    parser.add_argument("--concurrency", type=int, default=1, help="jobs at once")
    parser.add_argument("--task-timeout-s", type=float, default=3600, help="a task that takes longer is tried again")
    parser.add_argument("--deadline-s", type=float, help="a job whose run takes longer fails")
    parser.add_argument("--autoscaling", action="store_true", help="hand more tasks to Ray than it has CPUs")
    parser.add_argument("--lease-s", type=float, default=15, help="seconds after which a silent executor's jobs are taken up by another")
    parser.add_argument("--parent", type=int, help="end when this process, the parent, is gone")
    parser.add_argument("--log-format", choices=FORMATS, help="one line a record on stderr (default: $CONVSVC_LOG_FORMAT, or text)")
    parser.add_argument("--pulse", type=int, help="file descriptor of a pipe on which the parent hears that this process lives")
    return run_executor(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
