"""Errors only the service makes.

    ServiceError
      NoSuchJob           the id names no job
      NoSuchBatch         the id names no batch
      NoSuchWatch         the id names no watch
      NoSuchPage          the console has no such page
      UnclearJob          the beginning of an id fits several jobs
      IllegalTransition   the job is in a state in which this cannot be done
      KeyReused           an Idempotency-Key came again with another job
      LeaseLost           another executor has taken the job; what this one does no longer counts
      Draining            this executor ends; the job goes back to the queue
      TooSlow             planning within a request took longer than the limit
      NotReady            the service runs but cannot work: database, migrations or executor
      StoreAway           the job store's database does not answer
      StoreTooNew         its tables are of a version with which this one does not work
      QuotaReached        the tenant has as many jobs queued, or bytes to be written, as it may have
      Unauthorized        no token, or one that lets nobody in
      Forbidden           the token, or this kind of request, may not do this
      TooManyRequests     more requests a minute than the tenant, or the address, may make
      TooLarge            the request's body is larger than any may be
      NoSuchToken, NoSuchTenant, TenantInUse, WrongValue   of the administrator's commands
      CannotListen        the address or port is another program's, or not this machine's
      Exposed             the service was to listen where strangers can reach it, without authentication
      BadAddress          what the client was given is no address of a service, or no token
      InsecureAddress     the client would have sent its token over a network unencrypted

The client makes them again from the problems it receives, so nothing heavy is imported here.
"""

from __future__ import annotations

from convsvc.errors import ServiceError


class NoSuchJob(ServiceError):
    title, slug, http_status = "no such job", "no-such-job", 404


class NoSuchBatch(ServiceError):
    title, slug, http_status = "no such batch", "no-such-batch", 404


class NoSuchWatch(ServiceError):
    title, slug, http_status = "no such watch", "no-such-watch", 404


class NoSuchPage(ServiceError):
    title, slug, http_status = "no such page", "no-such-page", 404


class UnclearJob(ServiceError):
    title, slug, exit_code, http_status = "several jobs", "unclear-job", 2, 409


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


class CannotListen(ServiceError):
    title, slug, http_status = "cannot listen", "cannot-listen", 500


class Exposed(ServiceError):
    title, slug, exit_code, http_status = "refused to listen", "exposed", 2, 500


class QuotaReached(ServiceError):
    """`details["retry_after_s"]` is when to ask again."""

    title, slug, http_status, retryable = "quota reached", "quota-reached", 429, True


class BadAddress(ServiceError):
    title, slug, exit_code, http_status = "not an address", "bad-address", 2, 500


class InsecureAddress(ServiceError):
    title, slug, exit_code, http_status = "refused to send a token", "insecure-address", 2, 500


class StoreTooNew(ServiceError):
    title, slug, http_status = "job store of another version", "store-too-new", 503


class StoreAway(ServiceError):
    """`details["retry_after_s"]` is when to ask again."""

    title, slug, http_status, retryable = "job store away", "store-away", 503, True


class Unauthorized(ServiceError):
    title, slug, http_status = "not authenticated", "unauthorized", 401


class Forbidden(ServiceError):
    title, slug, http_status = "not allowed", "forbidden", 403


class TooManyRequests(ServiceError):
    """`details["retry_after_s"]` is when to ask again."""

    title, slug, http_status, retryable = "too many requests", "too-many-requests", 429, True


class TooLarge(ServiceError):
    title, slug, http_status = "request too large", "too-large", 413


class NoSuchToken(ServiceError):
    title, slug, exit_code, http_status = "no such token", "no-such-token", 2, 404


class NoSuchTenant(ServiceError):
    title, slug, exit_code, http_status = "no such tenant", "no-such-tenant", 2, 404


class TenantInUse(ServiceError):
    title, slug, exit_code, http_status = "tenant in use", "tenant-in-use", 2, 409


class WrongValue(ServiceError):
    title, slug, exit_code, http_status = "wrong value", "wrong-value", 2, 422
