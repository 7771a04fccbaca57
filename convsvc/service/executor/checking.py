"""Jobs that write nothing: `verify` and `compare`. They run in the executor itself, piece by piece, and need no engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convsvc.engine.listener import Listener
from convsvc.errors import Canceled, VerifyError
from convsvc.roots import Roots
from convsvc.spec import Job

if TYPE_CHECKING:
    from convsvc.plan.plan import Plan
    from convsvc.service.executor.runner import StoreListener
    from convsvc.service.store.claims import Claim

# The answer is kept in the job's row: of each list so many items. How many more there are is said.
MOST_ITEMS = 1000
SHOWN = 5


def run_check(claim: Claim, listener: StoreListener, should_stop: Callable[[], bool], roots: Roots) -> dict[str, Any]:
    """What `convsvc.verify` or `convsvc.compare` answers of the job. Raises VerifyError where something differs, Canceled, and what they
    raise; of a comparison the error's details have the answer, as "comparison".
    """
    if claim.canceling:
        raise Canceled("the job was canceled")
    listener.begins()
    told = _Stoppable(listener, should_stop)
    return _verified(claim.job, told, roots) if claim.job.mode == "verify" else _compared(claim.job, told, roots)


def _verified(job: Job, told: _Stoppable, roots: Roots) -> dict[str, Any]:
    from convsvc.conversion import verify

    return verify(job, listener=told, roots=roots)


def _compared(job: Job, told: _Stoppable, roots: Roots) -> dict[str, Any]:
    from convsvc.comparison import compare, differences

    told.compares()
    iterations: Any = tuple(getattr(side, "iteration", None) for side in (job.source, job.target))
    modules = next((said for side in (job.source, job.target) if (said := getattr(side, "modules", None))), None)
    stated: dict[str, Any] = {"model_type": job.model_type, "iteration": iterations, "modules": modules}
    found = bounded(compare(job.source.path, job.target.path, **stated, listener=told, roots=roots))
    if found["same"]:
        return found
    raise VerifyError(
        f"{job.source.path} and {job.target.path} are not the same model",
        facts=list(differences(found, SHOWN)),
        details={"comparison": found},
    )


def bounded(found: dict[str, Any]) -> dict[str, Any]:
    """A comparison's answer with at most `MOST_ITEMS` in each list; `left_off` says how many there were more of which, if any.

    >>> bounded({"same": False, "only_a": ["x"] * 1002})["left_off"]
    {'only_a': 2}
    """
    long = {name: items for name, items in found.items() if isinstance(items, list) and len(items) > MOST_ITEMS}
    if not long:
        return found
    left_off = {name: len(items) - MOST_ITEMS for name, items in long.items()}
    return found | {name: items[:MOST_ITEMS] for name, items in long.items()} | {"left_off": left_off}


class _Stoppable(Listener):
    """Tells the job store, and asks at each step whether the job shall stop."""

    def __init__(self, listener: StoreListener, should_stop: Callable[[], bool]) -> None:
        self._listener, self._should_stop = listener, should_stop

    def planned(self, plan: Plan) -> None:
        self._check()
        self._listener.planned(plan)

    def compares(self) -> None:
        self._check()
        self._listener.compares()

    def phase(self, name: str, total: int) -> None:
        self._check()
        self._listener.phase(name, total)

    def task_done(self, task: int, result: dict[str, Any]) -> None:
        self._check()
        self._listener.task_done(task, result)

    def log(self, message: str) -> None:
        self._listener.log(message)

    def _check(self) -> None:
        if self._should_stop():
            raise Canceled("the job was canceled")
