"""What all routes of the console share: forms are checked before anything, errors are pages, and headers bind what a page may do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from convsvc.errors import ConvsvcError
from convsvc.service.console.rendering import page
from convsvc.service.console.visits import HOME, SEED, SESSION, Visit, check_form, forget, is_link_elsewhere, keep, visit_of
from convsvc.service.errors import Unauthorized
from convsvc.service.problems import answer_error

# No inline script or style, nothing from anywhere else, in no frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a form's Origin would be null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# A page of the site itself asks again, and then the session's cookie comes along.
_AGAIN = '<!doctype html><html lang="en"><meta http-equiv="refresh" content="0"><title>convsvc</title></html>'

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ConsoleRoute(APIRoute):
    """A route whose answers are pages."""

    def get_route_handler(self) -> Handler:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            visit = request.state.visit = visit_of(request)
            if is_link_elsewhere(request):
                return _with_headers(HTMLResponse(_AGAIN))
            try:
                if request.method not in ("GET", "HEAD"):
                    await check_form(request, visit)
                response = await inner(request)
            except ConvsvcError as error:
                response = _refused(request, visit, error)
            except RequestValidationError as error:
                response = _odd(request, error)
            if visit.is_new and "text/html" in response.headers.get("content-type", ""):
                keep(request, response, SEED, visit.seed)
            return _with_headers(response)

        return handler


def _with_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _refused(request: Request, visit: Visit, error: ConvsvcError) -> Response:
    if not _wants_page(request):
        return answer_error(request, error)
    if isinstance(error, Unauthorized):
        return _to_login(request, visit)
    answer = page(request, "error.html", status=error.http_status, error=error)
    if "retry_after_s" in error.details:
        answer.headers["Retry-After"] = str(error.details["retry_after_s"])
    return answer


def _to_login(request: Request, visit: Visit) -> Response:
    """A session whose token is good no more ends here: it is not tried again at every click, each of which would count as a refusal."""
    wanted = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    way = f"{HOME}/login?next={quote(wanted if request.method == 'GET' else HOME, safe='')}"
    if "HX-Request" in request.headers:
        response = Response(status_code=401, headers={"HX-Redirect": f"{HOME}/login"})
    else:
        response = RedirectResponse(way, status_code=303)
    if visit.token:
        forget(response, SESSION)
    return response


def _odd(request: Request, error: RequestValidationError) -> Response:
    fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
    told = ConvsvcError(f"the request has wrong parameters: {fields}")
    return page(request, "error.html", status=422, error=told) if _wants_page(request) else answer_error(request, told)


def _wants_page(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*")
    return "text/event-stream" not in accepted and not accepted.startswith("application/json")
