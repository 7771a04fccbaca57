"""This interface as a document, and as a page to try it on."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse

from convsvc.service.access import Anyone

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi(_: Anyone, request: Request) -> Response:
    return JSONResponse(request.app.openapi())


@router.get("/docs")
def docs(_: Anyone, request: Request) -> Response:
    return get_swagger_ui_html(openapi_url="/openapi.json", title=request.app.title)
