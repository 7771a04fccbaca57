"""This interface as a document. There is no page to try it on: those load scripts of strangers into the service's own origin."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from convsvc.service.access.callers import Anyone

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi(_: Anyone, request: Request) -> Response:
    return JSONResponse(request.app.openapi())
