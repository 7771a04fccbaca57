"""The service's HTTP application. It validates, stores, answers; it plans only when asked to, and converts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

import convsvc
from convsvc.service.access.audit import Audit
from convsvc.service.access.callers import Access
from convsvc.service.access.limits import BodyLimit
from convsvc.service.batching.rules import BatchSpec
from convsvc.service.console import router as console
from convsvc.service.following import News
from convsvc.service.head import HeadAsGet
from convsvc.service.observe.metrics import HttpMetrics
from convsvc.service.observe.request_log import RequestLog
from convsvc.service.observe.tracing import trace_requests
from convsvc.service.planning import summary_of_plan
from convsvc.service.problems import PROBLEM, SCHEMA, install_problem_handlers
from convsvc.service.routes import audit, batches, catalog, cluster, documents, health, jobs, metrics, plans, streams, watches
from convsvc.service.routes.context import Context, Planner
from convsvc.service.settings import Settings
from convsvc.service.store.cluster import Cluster
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.watching.rules import WatchSpec
from convsvc.spec import Job

API = "v1"
VERSIONED: tuple[APIRouter, ...] = tuple(subject.router for subject in (jobs, batches, watches, streams, plans, cluster, catalog, audit))
# Where probes, scrapers and readers of documents look for them.
AT_ROOT: tuple[APIRouter, ...] = tuple(subject.router for subject in (health, metrics, documents))


def create_app(settings: Settings | None = None, *, plan: Planner | None = None) -> FastAPI:
    """The application. Its database is opened and migrated when it starts; `plan` stands in for the planner."""
    settings = settings or Settings()
    # FastAPI's own routes for its document would ask for no token: `documents` has them instead.
    app = FastAPI(title="convsvc", version=convsvc.__version__, summary="Checkpoint conversion", lifespan=_lifespan, openapi_url=None)
    database = Database(settings.database_url)
    plan = plan or partial(summary_of_plan, memory_limit_bytes=settings.memory_limit_bytes)
    store, cluster_ = Store(database, settings.executor_silence_s), Cluster(database, settings.executor_silence_s)
    app.state.context = Context(store, settings, plan, Audit(database), cluster_, News(store.stamps, settings.events_poll_s))
    app.state.access = Access(database, settings)
    app.state.plan_limiter = CapacityLimiter(settings.plans_at_once)
    for router in VERSIONED:
        app.include_router(router, prefix=f"/{API}", responses={"default": PROBLEM})
        app.include_router(router, include_in_schema=False)  # as they were called before there was a version in the path
    for router in AT_ROOT:
        app.include_router(router, responses={"default": PROBLEM})
    for router in (*console.ROUTERS, console.front_door):
        app.include_router(router)
    install_problem_handlers(app)
    app.state.metrics = HttpMetrics(database, settings.executor_silence_s)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, most_bytes=settings.max_body_bytes)
    app.add_middleware(RequestLog, metrics=app.state.metrics)  # the last one added is the outermost
    trace_requests(app)
    _show_job_schema(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    database: Database = app.state.context.store.database
    database.migrate()
    yield
    database.close()


def _show_job_schema(app: FastAPI) -> None:
    """Add the job's schema to OpenAPI: bodies are parsed by `parse_job`, so FastAPI does not know it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            document.setdefault("components", {}).setdefault("schemas", {}).update(_schemas())
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way


def _schemas() -> dict[str, Any]:
    job = Job.model_json_schema(ref_template="#/components/schemas/{model}")
    others = {kind.__name__: kind.model_json_schema(ref_template="#/components/schemas/{model}") for kind in (WatchSpec, BatchSpec)}
    return {**job.pop("$defs", {}), **others, "Job": job, "Problem": SCHEMA}
