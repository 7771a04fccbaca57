"""Errors only the service makes.

    ServiceError
      NoSuchJob           the id names no job
      IllegalTransition   the job is in a state in which this cannot be done
      KeyReused           an Idempotency-Key came again with another job
      LeaseLost           another executor has taken the job; what this one does no longer counts
      Draining            this executor ends; the job goes back to the queue
      TooSlow             planning within a request took longer than the limit
      NotReady            the service runs but cannot work: database, migrations or executor
      QuotaReached        the tenant has as many jobs queued, or bytes to be written, as it may have
      Exposed             the service was to listen where strangers can reach it, without authentication

The client makes them again from the problems it receives, so nothing heavy is imported here.
"""

from __future__ import annotations

from convsvc.errors import ServiceError


class NoSuchJob(ServiceError):
    title, slug, http_status = "no such job", "no-such-job", 404


class IllegalTransition(ServiceError):
    title, slug, http_status = "not possible in this state", "illegal-transition", 409


class KeyReused(ServiceError):
    title, slug, http_status = "idempotency key reused", "key-reused", 422


class LeaseLost(ServiceError):
    title, slug, http_status = "lease lost", "lease-lost", 409


class Draining(ServiceError):
    title, slug, http_status = "executor ends", "draining", 503


class TooSlow(ServiceError):
    title, slug, http_status = "took too long", "too-slow", 504


class NotReady(ServiceError):
    title, slug, http_status = "service not ready", "not-ready", 503


class Exposed(ServiceError):
    title, slug, exit_code, http_status = "refused to listen", "exposed", 2, 500


class QuotaReached(ServiceError):
    """`details["retry_after_s"]` is when to ask again."""

    title, slug, http_status, retryable = "quota reached", "quota-reached", 429, True
