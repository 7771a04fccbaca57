"""A picture as one file of HTML, which opens from a disk and asks nobody for anything."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import convsvc
from convsvc.plan.plan import Plan

# With this a page begins.
KEY = b"<!doctype html>\n<!-- conversion picture -->"
FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


def render_page(picture: dict[str, Any]) -> str:
    """The file: script, style and data in it. Names are data, and never markup."""
    style, script = (Markup((STATIC / name).read_text("utf-8")) for name in ("picture.css", "picture.js"))
    return (
        _environment()
        .get_template("page.html")
        .render(title=picture["title"], data=Markup(in_script(picture)), style=style, script=script, version=convsvc.__version__)
    )


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is a picture. Pure."""
    return head.startswith(KEY)


def wants_picture(plan: Plan) -> bool:
    """Whether the job wants one beside its report. Pure."""
    return bool(plan.job.get("options", {}).get("picture", "none") == "beside")


def in_script(value: Any) -> str:
    r"""JSON that may stand in a script element: nothing in it ends that.

    >>> in_script("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined)
