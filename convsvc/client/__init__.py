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

from typing import TYPE_CHECKING, Any

from convsvc.client.sync import Client
from convsvc.service.views import EventView, JobPage, JobView, LogLine, PlanFiles, PlanNeeds, PlanTarget, PlanView, Progress, TaskView

if TYPE_CHECKING:
    from convsvc.client.asynchronous import AsyncClient

__all__ = [
    "Client", "AsyncClient",
    "EventView", "JobPage", "JobView", "LogLine", "PlanFiles", "PlanNeeds", "PlanTarget", "PlanView", "Progress", "TaskView",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # asyncio takes 40 ms to import: who does not ask for it does without.
    if name == "AsyncClient":
        from convsvc.client.asynchronous import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
