"""What a request may ask for: a misspelled parameter is refused, not ignored, or a list of all jobs looks like that of the failed ones."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


def refuse_unknown_queries(request: Request) -> None:
    """Raises RequestValidationError, which becomes a 422, for query parameters that the route does not have."""
    given, route = list(request.query_params.keys()), request.scope.get("route")
    if not given or not isinstance(route, APIRoute):
        return
    known = sorted(_known(route.dependant))
    unknown = [name for name in dict.fromkeys(given) if name not in known]
    if unknown:
        raise RequestValidationError([_fault(name, known) for name in unknown])


def _known(dependant: Dependant) -> set[str]:
    """The parameters of a route and of what it depends on."""
    return {field.alias for field in dependant.query_params}.union(*map(_known, dependant.dependencies))


def _fault(name: str, known: list[str]) -> dict[str, object]:
    near = get_close_matches(name, known, 1)
    meant = f": {near[0]} is meant?" if near else f"; there {'are ' + ', '.join(known) if known else 'is none'}"
    return {"type": "unknown_query", "loc": ("query", name), "msg": f"there is no such parameter{meant}", "input": None}
