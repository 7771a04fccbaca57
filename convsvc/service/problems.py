"""Errors as RFC 9457 problem documents, and back."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from convsvc.errors import ConvsvcError
from convsvc.spec.faults import in_words

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:convsvc:problem:"

# Every route may answer with one; FastAPI shows it in OpenAPI.
SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. `kind` is the error's class, `facts` one fact a line, `do` what to do about it.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "kind"],
    "properties": {
        "type": {"type": "string", "examples": [f"{TYPE_PREFIX}target-busy"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "kind": {"type": "string"},
        "facts": {"type": "array", "items": {"type": "string"}},
        "do": {"type": ["string", "null"]},
        "details": {"type": "object"},
        "retryable": {"type": "boolean"},
    },
}
PROBLEM: dict[str, Any] = {
    "description": "A problem",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}

# What the statuses mean that more than one route answers with.
MEANINGS = {
    401: "No token, or one that is unknown, expired or revoked",
    403: "The token lacks the scope, or a path is not in the tenant's roots; without tokens: the request came from elsewhere",
    404: "There is no such job, or it is another tenant's",
    409: "Not possible in the job's state, or the target is in use",
    413: "The body is too large",
    422: "Wrong parameters, or a job that cannot be",
    429: "Too many requests, or a quota is reached: Retry-After says when to come again",
    503: "Storage or the database does not answer, or the service is not ready",
    504: "Planning took too long",
}

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_log = logging.getLogger(__name__)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` for the problems that it may answer with."""
    return {status: {**PROBLEM, "description": MEANINGS[status]} for status in statuses}


def problem(error: ConvsvcError, instance: str) -> dict[str, Any]:
    """The problem document of an error; `instance` is the path that was asked for.

    >>> from convsvc.errors import TargetBusy
    >>> problem(TargetBusy("/out is taken"), "/jobs")["type"]
    'urn:convsvc:problem:target-busy'
    """
    return {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.http_status,
        "detail": error.message,
        "instance": instance,
        "kind": type(error).__name__,
        "facts": list(error.facts),
        "do": error.do,
        "details": error.details,
        "retryable": error.retryable,
    }


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of the app a problem document."""
    app.add_exception_handler(ConvsvcError, _on_convsvc_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, on_crash)


def answer(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status_code=document["status"], media_type=MEDIA_TYPE, headers=headers)


def answer_error(request: Request, error: ConvsvcError) -> Response:
    """The error as an answer, with the headers that belong to its status."""
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="convsvc"'
    if error.http_status == 413:
        headers["Connection"] = "close"  # or the server would read on to the body's end
    if "retry_after_s" in error.details:
        headers["Retry-After"] = str(error.details["retry_after_s"])
    return answer(problem(error, request.url.path), headers)


def _on_convsvc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConvsvcError)
    return answer_error(request, error)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [{"field": ".".join(map(str, item["loc"])), "text": _words(item)} for item in error.errors()]
    document = _plain(request, 422, "the request has wrong parameters")
    facts = [f"{item['field']}: {item['text']}" for item in fields]
    return answer({**document, "title": "invalid request", "facts": facts, "details": {"fields": fields}})


def _words(item: dict[str, Any]) -> str:
    if item["type"] == "unknown_query":
        return str(item["msg"])
    if item["loc"][-1] == "cursor":
        return "is no cursor: give the last page's next_cursor"
    given = item.get("input")
    shown = f" (given {json.dumps(given, default=str)[:80]})" if given is not None else ""
    return f"{in_words(item) or item['msg']}{shown}"


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = allowed_methods(request)
        headers["Allow"] = ", ".join(allowed)
        detail = f"{request.url.path} answers {' and '.join(allowed)}, not {request.method}"
    return answer(_plain(request, error.status_code, detail), headers)


def allowed_methods(request: Request) -> list[str]:
    """The methods that the path answers, of all routes that are there for it: the router itself knows only the first one's."""
    routes = request.app.router.routes
    found = {method for method in METHODS if any(route.matches({**request.scope, "method": method})[0] == Match.FULL for route in routes)}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def on_crash(request: Request, error: Exception) -> Response:
    # What broke is in the log; a stranger learns nothing of our inside.
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(_plain(request, 500, "the service failed on this request; its log says why"))


def _plain(request: Request, status: int, detail: str) -> dict[str, Any]:
    phrase = HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "kind": "ServiceError",
        "facts": [],
        "do": None,
        "details": {},
        "retryable": status >= 500,
    }
