"""Coming in and going out: the token is entered once; the language; the files that pages are made of."""

from __future__ import annotations

import mimetypes
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from convsvc.errors import ServiceError
from convsvc.service.access.callers import Access
from convsvc.service.console.console_route import ConsoleRoute
from convsvc.service.console.languages import LANGUAGES
from convsvc.service.console.rendering import page, static_files
from convsvc.service.console.visits import HOME, LANGUAGE, SESSION, YEAR_S, Here, forget, keep, safe_way
from convsvc.service.errors import NoSuchPage, Unauthorized

router = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
nowhere = APIRouter(prefix=HOME, include_in_schema=False, route_class=ConsoleRoute)
LONGEST_TOKEN = 200
TYPES = {".LICENSE": "text/plain", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@router.get("")
@router.get("/")
def home() -> Response:
    return RedirectResponse(f"{HOME}/jobs", status_code=307)


@router.get("/login")
async def login_page(request: Request, here: Here) -> Response:
    """Asks for a token; whoever needs none, or has one already, goes on."""
    way = safe_way(request.query_params.get("next", ""))
    access: Access = request.app.state.access
    try:
        await access.caller(request, here.token)
    except Unauthorized:
        answer = page(request, "login.html", way=way, error=None)
        if here.token:
            forget(answer, SESSION)
        return answer
    return RedirectResponse(way, status_code=303)


@router.post("/login")
async def login(request: Request, here: Here) -> Response:
    """Looks at the token as the HTTP interface does: a bad one counts, and is in the audit."""
    way, text = safe_way(here.said("next")), here.said("token")[:LONGEST_TOKEN]
    access: Access = request.app.state.access
    try:
        await access.caller(request, text or None)
    except ServiceError as error:
        answer = page(request, "login.html", status=error.http_status, way=way, error=error)
        if "retry_after_s" in error.details:
            answer.headers["Retry-After"] = str(error.details["retry_after_s"])
        return answer
    answer = RedirectResponse(way, status_code=303)
    if text:
        keep(request, answer, SESSION, text)
    return answer


@router.post("/logout")
def logout() -> Response:
    """The session's cookie goes; the token itself stays good until it is revoked."""
    answer = RedirectResponse(f"{HOME}/login", status_code=303)
    forget(answer, SESSION)
    return answer


@router.post("/language")
def language(request: Request, here: Here) -> Response:
    """Keeps the language for a year."""
    chosen = here.said("language")
    answer = RedirectResponse(safe_way(here.said("next")) if "/login" not in here.said("next") else f"{HOME}/login", status_code=303)
    if chosen in LANGUAGES:
        keep(request, answer, LANGUAGE, chosen, seconds=YEAR_S)
    return answer


@router.get("/static/{name:path}")
def static(name: Annotated[str, Path(max_length=100)]) -> Response:
    """A file of the pages; its address changes with what is in it."""
    known = static_files()
    if name not in known:
        raise NoSuchPage("there is no such file")
    path = known[name]
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@nowhere.get("/{rest:path}")
def no_page(rest: str) -> Response:
    """Whatever no other route has."""
    raise NoSuchPage(f"the console has no page {HOME}/{rest}", do=f"begin at {HOME}/jobs")
