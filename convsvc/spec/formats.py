"""The formats there are: a folder of `convsvc/dialects` with a `job` module each, or an entry point of a package installed beside convsvc.

A folder's name is its format's, with hyphens. An entry point of the group `convsvc.dialects` is called as its format; its value is a
package with the same modules: `job` (what a job may say of it), `source` and `target` (how it is read and written; either may be missing).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

GROUP = PACKAGE = "convsvc.dialects"


@cache
def formats() -> Mapping[str, str]:
    """Every format's package, by the format's name. Imports none of them."""
    found = {}
    for place in import_module(PACKAGE).__path__:
        for folder in sorted(Path(place).iterdir()):
            if (folder / "job.py").is_file():
                found[folder.name.replace("_", "-")] = f"{PACKAGE}.{folder.name}"
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise ImportError(f"two formats are called {point.name}: {found[point.name]} and {point.value}")
        found[point.name] = point.value
    return MappingProxyType(found)


def names_of(side: str) -> list[str]:
    """The formats that have a `source`, or a `target`, as the commands offer them. Imports no module of theirs."""
    return [name for name, package in formats().items() if find_spec(f"{package}.{side}") is not None]


def sides(side: str) -> dict[str, Any]:
    """What the formats' `job` modules have under a name, SOURCE or TARGET, by format; formats without it are left out."""
    modules = {name: import_module(f"{package}.job") for name, package in formats().items()}
    return {name: getattr(module, side) for name, module in modules.items() if hasattr(module, side)}
