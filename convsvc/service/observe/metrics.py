"""What Prometheus is told at `/metrics`.

The executor is another process, and there may be several of both: what is said of jobs comes from the job store at the time of the
scrape, and is the same whichever replica answers. HTTP requests are counted here, in this process, by the route as it is declared.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

import convsvc
from convsvc.service.store.clock import now_of
from convsvc.service.store.database import Database
from convsvc.service.store.models import DeliveryRow, ExecutorRow, JobRow, TaskRow
from convsvc.service.store.states import ENDED, JOB_STATES, TaskState
from convsvc.service.store.tallies import BEYOND, BOUNDS_S, SUM, read_tallies

_log = logging.getLogger(__name__)

ACTIVE = sorted(set(JOB_STATES) - ENDED)
RECENT_S = 60.0
HTTP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Counters that the store keeps: the sum's name, the metric's, what it says, and what the label says where it has one.
_COUNTERS = (
    ("jobs_ended", "convsvc_jobs_ended", "Runs of jobs that have ended, by the state they ended in.", "state"),
    ("job_failures", "convsvc_job_failures", "Runs of jobs that failed, by the class of the error.", "error"),
    ("task_attempts", "convsvc_task_attempts", "Attempts at tasks: done, retried (failed, and tried again) or failed.", "outcome"),
    ("bytes_read", "convsvc_bytes_read", "Bytes that tasks have read, checks included.", None),
    ("bytes_written", "convsvc_bytes_written", "Bytes that tasks have written.", None),
    ("leases_expired", "convsvc_leases_expired", "Jobs taken over from an executor that went silent.", None),
    (
        "webhook_attempts",
        "convsvc_webhook_attempts",
        "Calls of webhooks: delivered, retried or failed for good.",
        "outcome",
    ),
)
_HISTOGRAMS = (
    ("queue_wait", "convsvc_job_queue_wait_seconds", "From a job's coming into the queue to its being claimed."),
    ("job_duration", "convsvc_job_duration_seconds", "From a run's first claim to its end."),
)

Sums = dict[str, dict[tuple[str, str], float]]
Values = Mapping[tuple[str, ...], float]  # a gauge's, by its labels


class HttpMetrics:
    """Requests that this process answered. `registry` also has what the operating system says of it, and the store's metrics."""

    def __init__(self, database: Database, executor_silence_s: float = 30) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they forgot; else each counter has a second series
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(StoreCollector(database, executor_silence_s))
        labels = ("method", "route")
        self._requests = Counter("convsvc_http_requests", "HTTP requests by route and status.", (*labels, "status"), registry=self.registry)
        self._seconds = Histogram(
            "convsvc_http_request_seconds",
            "Seconds until an answer began, by route.",
            labels,
            buckets=HTTP_BOUNDS_S,
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is one of the application's, or "none"."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class StoreCollector(Collector):
    """Reads the job store when it is scraped, in one transaction of a few queries over indices and small tables."""

    def __init__(self, database: Database, executor_silence_s: float) -> None:
        self._database, self._silence_s = database, executor_silence_s

    def describe(self) -> Iterable[Metric]:
        """Nothing: else it would be asked, and the database with it, when it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        try:
            with self._database.reading() as session:
                found = [*self._live(session), *counted(_sums(session))]
        except Exception as error:  # whatever the driver raises: the rest of the page must still be answered
            _log.warning("metrics without the job store: %s", type(error).__name__)
            found = []
        yield from found
        yield _gauge("convsvc_store_up", "Whether the job store answered this scrape.", {(): float(bool(found))})
        yield _gauge("convsvc_store_scrape_seconds", "Seconds it took to ask the job store.", {(): time.perf_counter() - began})
        yield _gauge("convsvc_build_info", "The version that answers.", {(convsvc.__version__,): 1.0}, "version")

    def _live(self, session: Session) -> Iterator[Metric]:
        yield _gauge("convsvc_jobs", "Jobs in the store, by state and tenant.", _jobs(session), "state", "tenant")
        yield _gauge("convsvc_tasks", "Tasks of the jobs that have not ended, by state.", _tasks(session), "state")
        yield _gauge("convsvc_running_bytes_per_second", "Written by tasks that ended in the last minute.", {(): _speed(session)})
        yield _gauge("convsvc_executors", "Executors heard of lately, by engine.", _executors(session, self._silence_s), "engine")
        yield _gauge("convsvc_webhook_deliveries", "Webhooks by state.", _deliveries(session), "state")


def counted(sums: Sums) -> Iterator[Metric]:
    """The counters and histograms that the store keeps."""
    for name, metric, text, label in _COUNTERS:
        family = CounterMetricFamily(metric, text, labels=["tenant", label] if label else ["tenant"])
        for (tenant, kind), value in sorted(sums.get(name, {}).items()):
            family.add_metric([tenant, kind] if label else [tenant], value)
        yield family
    for name, metric, text in _HISTOGRAMS:
        histogram = HistogramMetricFamily(metric, text, labels=["tenant"])
        for tenant in sorted({tenant for tenant, _ in sums.get(name, {})}):
            values = {label: value for (owner, label), value in sums[name].items() if owner == tenant}
            histogram.add_metric([tenant], cumulated(values), values.get(SUM, 0.0))
        yield histogram


def cumulated(counts: dict[str, float]) -> list[tuple[str, float]]:
    """A histogram's buckets as Prometheus wants them: each with all that is not above its bound.

    >>> cumulated({"1.0": 2, "2.5": 1, "+Inf": 1})[:3], cumulated({"1.0": 2, "2.5": 1, "+Inf": 1})[-1]
    ([('1.0', 2.0), ('2.5', 3.0), ('5.0', 3.0)], ('+Inf', 4.0))
    """
    so_far, found = 0.0, []
    for bound in (*map(str, BOUNDS_S), BEYOND):
        so_far += counts.get(bound, 0.0)
        found.append((bound, so_far))
    return found


def _sums(session: Session) -> Sums:
    found: Sums = defaultdict(dict)
    for name, tenant, label, value in read_tallies(session):
        found[name][tenant, label] = value
    return found


def _jobs(session: Session) -> Values:
    rows = session.execute(select(JobRow.state, JobRow.tenant, func.count()).group_by(JobRow.state, JobRow.tenant)).all()
    tenants = {row[1] for row in rows} or {"default"}
    # A state that no job is in is 0, not missing: an alert on it must not vanish.
    none = {(state, tenant): 0.0 for state in JOB_STATES for tenant in tenants}
    return none | {(row[0], row[1]): float(row[2]) for row in rows}


def _tasks(session: Session) -> Values:
    query = select(TaskRow.state, func.count()).join(JobRow, JobRow.id == TaskRow.job_id)
    rows = session.execute(query.where(JobRow.state.in_(ACTIVE)).group_by(TaskRow.state))
    return _by_name(rows, get_args(TaskState))


def _speed(session: Session) -> float:
    since = now_of(session) - timedelta(seconds=RECENT_S)
    query = select(func.coalesce(func.sum(TaskRow.bytes), 0)).join(JobRow, JobRow.id == TaskRow.job_id)
    done = session.scalar(query.where(JobRow.state.in_(ACTIVE), TaskRow.state == "done", TaskRow.ended_at >= since))
    return float(done or 0) / RECENT_S


def _executors(session: Session, silence_s: float) -> Values:
    since = now_of(session) - timedelta(seconds=silence_s)
    query = select(ExecutorRow.engine, func.count()).where(ExecutorRow.heartbeat_at >= since).group_by(ExecutorRow.engine)
    return _by_name(session.execute(query), ())


def _deliveries(session: Session) -> Values:
    rows = session.execute(select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state))
    return _by_name(rows, ("waiting", "delivered", "failed"))


def _by_name(rows: Iterable[Any], names: Iterable[str]) -> Values:
    none: dict[tuple[str, ...], float] = {(name,): 0.0 for name in names}
    return none | {(row[0],): float(row[1]) for row in rows}


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for given, value in sorted(values.items()):
        family.add_metric(given, value)
    return family
