"""Pages from templates. Whatever is put into one is text: names, paths, errors and lines of logs may be of any kind."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import convsvc
from convsvc.notes import KINDS
from convsvc.pictures.page import STATIC as PICTURES
from convsvc.service.access.identity import Caller, Scope
from convsvc.service.console.languages import HTML, LANGUAGES, NAMES, said
from convsvc.service.console.visits import CSRF_FIELD, HOME, Visit
from convsvc.service.store.states import LEASED
from convsvc.units import in_bytes

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
NOTHING = "\N{EN DASH}"
PAGES = ("jobs", "new", "runs", "cluster", "admin")  # that the head of each page leads to


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """The page in the visit's language."""
    return HTMLResponse(rendered(request, template, **values), status_code=status)


def rendered(request: Request, template: str, **values: Any) -> str:
    """The template as text, with what every template knows: who looks, in which language, the forms' word."""
    here: Visit = request.state.visit
    common = {
        "visit": here,
        "caller": here.caller,
        "_": partial(said, here.language),
        "lang": HTML[here.language],
        "language": here.language,
        "languages": [(name, NAMES[name]) for name in LANGUAGES],
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "now": datetime.now(timezone.utc),
    }
    return environment().get_template(template).render(common | values)


@cache
def environment() -> Environment:
    """The templates. Autoescape is on for all of them; a name that a template does not have is an error."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "bytes": size,
        "time": moment,
        "span": span,
        "pretty": pretty,
        "tojson_text": on_one_line,
        "percent": percent,
        "shape": shape_of_state,
    }
    made.globals |= {"home": HOME, "asset": asset, "csrf_field": CSRF_FIELD, "version": convsvc.__version__, "may": may, "KINDS": KINDS}
    made.globals |= {"pages": PAGES, "working": LEASED}
    return made


@cache
def asset(name: str) -> str:
    """The address of one of `static_files`, which changes with what is in the file: browsers may keep it for ever."""
    digest = hashlib.sha256(static_files()[name].read_bytes()).hexdigest()[:12]
    return f"{HOME}/static/{name}?v={digest}"


def static_files() -> dict[str, Path]:
    """The files that pages ask for, by name: the console's own, and what draws pictures."""
    return {str(path.relative_to(folder)): path for folder in (PICTURES, STATIC) for path in folder.rglob("*") if path.is_file()}


def may(caller: Caller | None, scope: Scope) -> bool:
    return caller is not None and caller.may(scope)


def size(count: float | None) -> str:
    return NOTHING if count is None else in_bytes(int(count))


def moment(at: datetime | None) -> str:
    """A time for people, in UTC.

    >>> moment(datetime(2024, 5, 31, 12, tzinfo=timezone.utc))
    '2024-05-31 12:00:00 UTC'
    """
    return NOTHING if at is None else f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float | None) -> str:
    """A duration for people.

    >>> span(0.21), span(75), span(7322), span(200_000)
    ('0.2 s', '1 min 15 s', '2 h 2 min', '2 d 7 h')
    """
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, above, low, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {above} {whole % unit // low} {below}"
    return f"{whole} s"


def pretty(value: Any) -> str:
    """JSON to be read, or copied. Not for scripts: it goes through autoescape like any text."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def on_one_line(value: Any) -> str:
    """JSON as a line of text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def percent(done: float, total: float) -> int:
    """How much of it, in whole percent; 100 is all of it only.

    >>> percent(999, 1000), percent(5, 0)
    (99, 0)
    """
    return int(100 * done / total) if total else 0


def shape_of_state(state: str) -> str:
    """A sign beside a state's colour, for who does not see colours."""
    signs = {"succeeded": "✓", "done": "✓", "failed": "✗", "canceled": "⊘", "queued": "…", "blocked": "…", "pending": "…", "canceling": "⊘"}
    return signs.get(state, "▶")
