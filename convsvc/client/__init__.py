"""The typed client of the service, sync and async. It loads neither ray, torch, fastapi nor sqlalchemy.

    with Client("https://convsvc.example.org") as client:        # or $CONVSVC_URL; the token is $CONVSVC_TOKEN
        job = client.submit({"source": {...}, "target": {...}})
        client.wait(job.id)

    async with AsyncClient() as client:
        job = await client.submit({"source": {...}, "target": {...}})
        async for event in client.events(job.id):
            ...

A request that may safely be sent again is, see `retries`; `submit` is made safe by an Idempotency-Key that is kept over its attempts.
Every problem the service answers becomes the error it was made from (`convsvc.errors`, `convsvc.service.errors`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convsvc.client.sync import Client
from convsvc.service.views import EventView, JobPage, JobView, LogLine, Progress, TaskView

if TYPE_CHECKING:
    from convsvc.client.asynchronous import AsyncClient
    from convsvc.service.plan_views import PlanFiles, PlanNeeds, PlanTarget, PlanView

__all__ = [
    "Client", "AsyncClient",
    "EventView", "JobPage", "JobView", "LogLine", "Progress", "TaskView",
    "PlanFiles", "PlanNeeds", "PlanTarget", "PlanView",
]  # fmt: skip

# What `convsvc submit` does without: asyncio takes 40 ms to import.
_LATER = {"AsyncClient": "convsvc.client.asynchronous"} | dict.fromkeys(
    ("PlanFiles", "PlanNeeds", "PlanTarget", "PlanView"), "convsvc.service.plan_views"
)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
