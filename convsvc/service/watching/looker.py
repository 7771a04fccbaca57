"""One look at a watch: what its directory holds now, which iterations are whole and new, and the jobs that they become."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from convsvc.dialects import source_of
from convsvc.dialects.iterations import Iteration
from convsvc.errors import ConvsvcError, PlanError, ServiceError, SourceError, StorageError, TargetBusy
from convsvc.execute.staging.removal import remove_target
from convsvc.roots import RootedPath, Roots
from convsvc.service.access.audit import Act, Audit
from convsvc.service.access.identity import Caller
from convsvc.service.access.places import check_places
from convsvc.service.errors import Forbidden, KeyReused, LeaseLost, QuotaReached
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.looks import HeldWatch, Looks, Taken
from convsvc.service.store.models import DEFAULT_TENANT
from convsvc.service.watching.rules import WatchSpec, job_for, parse_watch
from convsvc.service.watching.sighting import Sighting, SightingState, content_of, signature_of
from convsvc.spec import Job

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan

_log = logging.getLogger("convsvc.watch")

# Between two looks: as long as an iteration has to be at rest, within these bounds.
SOONEST_S, LATEST_S = 0.1, 60.0
# What could not be read, or was refused for what it is, is tried again after so long, if nothing in it changes before.
AGAIN = timedelta(minutes=10)
# After so long another executor may look: storage may hang for this one.
LONGEST_LOOK_S = 1800.0
# Of those that have a job so many are looked at again in one look: that one is written anew is seen, if later.
LOOKED_AFTER = 4


@dataclass(frozen=True, slots=True)
class _Look:
    """A watch as it is looked at now."""

    watch: HeldWatch
    spec: WatchSpec
    roots: Roots
    taken: dict[tuple[int, str], Taken]


class Looker:
    """Looks at watches for an executor. `should_stop` is asked between two iterations."""

    def __init__(self, database: Database, name: str, *, should_stop: Callable[[], bool] = lambda: False, lease_s: float = 15) -> None:
        self._looks, self._store, self._audit = Looks(database, name, lease_s=lease_s), Store(database), Audit(database)
        self._should_stop = should_stop

    def look(self) -> bool:
        """Take a watch that is due and look at it; False if none is."""
        watch = self._looks.take()
        if watch is None:
            return False
        try:
            with self._keeping(watch):
                self._look_at(watch)
        except LeaseLost as lost:  # it was removed, or this look took too long: whoever has it now goes on
            _log.info("%s", lost)
        return True

    @contextmanager
    def _keeping(self, watch: HeldWatch) -> Iterator[None]:
        """Keeps the lease while a plan is made, or a large directory listed; not for ever, as storage may hang."""
        over, until = threading.Event(), time.monotonic() + LONGEST_LOOK_S

        def keep() -> None:
            while not over.wait(self._looks.lease_s / 3) and time.monotonic() < until:
                try:
                    self._looks.keep(watch)
                except Exception as error:  # the look itself finds out
                    _log.info("watch %s: the lease was not renewed: %s", watch.id, error)

        keeper = threading.Thread(target=keep, name="watch-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join(5)

    def _look_at(self, watch: HeldWatch) -> None:
        next_s, error = LATEST_S, None
        try:
            spec = parse_watch(watch.spec)
            next_s = min(max(spec.rest_s, SOONEST_S), LATEST_S)
            look = _Look(watch, spec, roots_of(watch), {(one.iteration, one.content): one for one in self._looks.taken(watch)})
            source = source_of(str(spec.job["source"]["format"]))
            found = source.iterations(RootedPath(spec.directory, look.roots))
            self._go_through(look, found)
            self._make_room(look)
        except LeaseLost:
            raise
        except ConvsvcError as failed:
            error = failed.as_dict()
        except Exception as unforeseen:
            _log.exception("watch %s", watch.id)
            error = _unforeseen(unforeseen).as_dict()
        self._looks.release(watch, 0 if self._should_stop() else next_s, error)

    def _go_through(self, look: _Look, found: Sequence[Iteration]) -> None:
        known = self._looks.sightings(look.watch)
        wanted = [one for one in found if look.spec.wants(one.number)]
        wanted.sort(key=lambda one: one.number, reverse=look.spec.order == "newest")
        settled = [one.number for one in wanted if (before := known.get(one.number)) is not None and before.state == "taken"]
        again = set(sorted(settled, key=lambda number: known[number].looked_at)[:LOOKED_AFTER])
        for one in wanted:
            if self._should_stop():
                return
            before = known.get(one.number)
            if (before is not None and before.state == "taken" and one.number not in again) or _is_too_old(look, one.number):
                continue
            if not self._see(look, one, before):
                return

    def _see(self, look: _Look, one: Iteration, before: Sighting | None) -> bool:
        """Look at one iteration; False where there is no room for more jobs now."""
        folder = RootedPath(look.spec.directory, look.roots) / one.folder
        now = self._looks.keep(look.watch)
        try:
            signature = signature_of(folder)
        except ConvsvcError as error:
            self._looks.saw(look.watch, Sighting(one.number, "refused", "", now, now, error.as_dict()))
            return True
        if before is None or before.signature != signature or not signature:
            if before is None or signature or before.signature:  # an empty directory is not told of at every look
                self._looks.saw(look.watch, Sighting(one.number, "moving", signature, now, now))
            return True
        if not one.is_finished or not before.rests(signature, now, look.spec.rest_s):
            return True
        if before.state == "taken":
            self._looks.saw(look.watch, Sighting(one.number, "taken", signature, before.since, now))
            return True
        if before.error is not None and not before.error.get("retryable") and now - before.looked_at < AGAIN:
            return True
        return self._take(look, one, folder, Sighting(one.number, "taken", signature, before.since, now))

    def _take(self, look: _Look, one: Iteration, folder: RootedPath, seen: Sighting) -> bool:
        """The iteration is at rest: if it can be read, and is new, it becomes a job. False where there is no room for more."""
        from convsvc.plan.planner import make_plan

        try:
            job = job_for(look.spec, one.number, one.says, look.watch.id)
            check_places(job, look.roots)
            plan = make_plan(job, look.roots)
            if signature_of(folder) != seen.signature:
                return True  # it has changed meanwhile: the next look sees that
            self._looks.keep(look.watch)
            taken = self._submit(look, job, plan, one.number)
        except LeaseLost:
            raise
        except (SourceError, PlanError) as error:
            self._failed(look, seen, "incomplete", error)
        except ConvsvcError as error:
            self._failed(look, seen, "refused", error)
            return not isinstance(error, QuotaReached)
        except Exception as error:
            _log.exception("watch %s, iteration %d", look.watch.id, one.number)
            self._failed(look, seen, "refused", _unforeseen(error))
        else:
            self._looks.take_iteration(look.watch, taken, seen)
            look.taken[taken.iteration, taken.content] = taken
        return True

    def _submit(self, look: _Look, job: Job, plan: Plan, iteration: int) -> Taken:
        """The job of an iteration of this content: the one that it has already, or a new one. Raises what submitting raises."""
        content = content_of(plan)
        known = look.taken.get((iteration, content))
        if known is not None:
            return known
        watch, key = look.watch, f"watch-{look.watch.id}-{iteration}-{content[:32]}"
        caller = Caller(f"{watch.submitted_by or 'somebody'} (watch)", watch.tenant, frozenset({"jobs:write"}), watch.roots)
        detail = {"watch": watch.id, "iteration": iteration, "source": job.source.path, "target": job.target.path}
        try:
            view, created = self._store.submit(job, key, caller=caller)
        except KeyReused as used:  # by another version, which wrote the job otherwise: it is this iteration's all the same
            return Taken(iteration, content, str(used.details["job"]), job.target.path, plan.fingerprint)
        if created:
            with self._audit.of(Act(caller, "submit", None, view.id, detail=detail)):
                _log.info("watch %s: iteration %d is job %s", watch.id, iteration, view.id)
        return Taken(iteration, content, view.id, job.target.path, plan.fingerprint, view.state)

    def _failed(self, look: _Look, seen: Sighting, state: SightingState, error: ConvsvcError) -> None:
        again = error.retryable or isinstance(error, StorageError | TargetBusy)
        said = {**error.as_dict(), "retryable": again}
        self._looks.saw(look.watch, Sighting(seen.iteration, state, seen.signature, seen.since, seen.looked_at, said))

    def _make_room(self, look: _Look) -> None:
        """Removes targets of iterations older than the newest that are kept."""
        if look.spec.keep is None:
            return
        newest: dict[int, Taken] = {}
        for one in self._looks.taken(look.watch):  # of one iteration the last comes first
            newest.setdefault(one.iteration, one)
        there = [one for one in newest.values() if one.state in {"succeeded", None} and not one.is_removed]
        for one in there[look.spec.keep :]:
            if self._should_stop():
                return
            self._remove(look, one)

    def _remove(self, look: _Look, one: Taken) -> None:
        self._looks.keep(look.watch)
        reader = self._looks.reads(one.target)
        if reader is not None:
            return  # once that has ended
        try:
            remove_target(Path(one.target), one.plan, look.roots)
        except TargetBusy:
            return
        except ConvsvcError as error:
            self._looks.removed(look.watch, one, str(error))
            return
        self._looks.removed(look.watch, one)
        _log.info("watch %s: the target of iteration %d was removed: %s", look.watch.id, one.iteration, one.target)


def roots_of(watch: HeldWatch) -> Roots:
    """Where the watch's tenant may read and write now; as for its jobs. Raises Forbidden if that is nowhere."""
    if not watch.roots and watch.tenant != DEFAULT_TENANT:
        raise Forbidden(f"tenant {watch.tenant} has no roots, so its watches may look nowhere", details={"tenant": watch.tenant})
    return Roots(watch.roots)


def _is_too_old(look: _Look, iteration: int) -> bool:
    """Whether as many newer ones are there as are kept."""
    if look.spec.keep is None:
        return False
    newer = {one.iteration for one in look.taken.values() if one.iteration > iteration and one.state not in {"failed", "canceled"}}
    return len(newer) >= look.spec.keep


def _unforeseen(error: Exception) -> ServiceError:
    return ServiceError(f"{type(error).__name__}: {error}", do="this is a fault in convsvc: report it with the executor's log")
