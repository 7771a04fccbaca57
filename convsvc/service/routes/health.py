"""Is the process alive, and can it do its work."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from convsvc.service.access.callers import MaybeCaller
from convsvc.service.errors import NotReady
from convsvc.service.problems import problems
from convsvc.service.routes.context import Context, Here

router = APIRouter(tags=["health"])
MOST_TOLD = 3


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers. Says nothing of the database: restarting this process would not mend that."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(503))
def readyz(caller: MaybeCaller, here: Here) -> dict[str, str]:
    """Jobs can be taken and will be run; 503 where not. Needs no token, but says what was checked, and what is wrong, only with one.

    Of a service that has no executor of its own (`--no-executor`) the executors are told, but do not decide: it takes jobs all the same.
    """
    checks: dict[str, Callable[[Context], str]] = {"database": _database, "migrations": _migrations, "executor": _executor}
    found = {name: _checked(check, here) for name, check in checks.items()}
    deciding = [name for name in found if name != "executor" or here.settings.require_executor]
    wrong = [f"{name}: {found[name]}" for name in deciding if found[name] != "ok"]
    if wrong and caller is None:
        raise NotReady("the service is not ready", do="ask with a token: the answer says why")
    if wrong:
        raise NotReady("the service is not ready", facts=wrong, details={"checks": found})
    return found if caller is not None else {"status": "ok"}


def _checked(check: Callable[[Context], str], here: Context) -> str:
    try:
        return check(here)
    except Exception as error:  # whatever the driver raises: the answer is that it does not work
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _database(here: Context) -> str:
    here.store.counts()
    return "ok"


def _migrations(here: Context) -> str:
    database = here.store.database
    have, need = database.revision(), database.head()
    return "ok" if database.works_on(have) else f"the tables are at {have}, this version needs {need}"


def _executor(here: Context) -> str:
    silence_s = here.store.executor_silence_s()
    if silence_s is None:
        return "no executor is running"
    if silence_s > here.settings.executor_silence_s:
        return f"no executor was heard of for {silence_s:.0f} s"
    there = here.cluster.executors()
    away = [one for one in there if one.away]
    if not away or len(away) < len(there):
        return "ok"
    told = "; ".join(f"{one.name} since {one.away_since}: {one.away}" for one in away[:MOST_TOLD])
    return f"the engine of every executor is away: {told}"
