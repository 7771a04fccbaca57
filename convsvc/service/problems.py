"""Errors as RFC 9457 problem documents, and back."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from convsvc.errors import ConvsvcError

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

_log = logging.getLogger(__name__)


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
    app.add_exception_handler(Exception, _on_crash)


def answer(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status_code=document["status"], media_type=MEDIA_TYPE, headers=headers)


def _on_convsvc_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConvsvcError)
    return answer(problem(error, request.url.path))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [{"field": ".".join(map(str, item["loc"])), "text": item["msg"]} for item in error.errors()]
    document = _plain(request, 422, "the request has wrong parameters")
    facts = [f"{item['field']}: {item['text']}" for item in fields]
    return answer({**document, "title": "invalid request", "facts": facts, "details": {"fields": fields}})


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return answer(_plain(request, error.status_code, detail), dict(error.headers or {}))


def _on_crash(request: Request, error: Exception) -> Response:
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
