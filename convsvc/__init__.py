"""convsvc: checkpoint conversion for large models, as a service and as a library.

    import convsvc
    convsvc.plan(job)                 # what would be done
    convsvc.convert(job)              # do it here
    convsvc.verify(job)               # whether its target is what it writes
    convsvc.compare(a, b)             # whether two checkpoints, in whatever formats, are the same model
    convsvc.Client().submit(job)      # have the service do it; or, for asyncio, convsvc.AsyncClient()

A job is a dict, JSON or YAML text, or a `convsvc.spec.Job`. Names are loaded when they are first used: `import convsvc` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convsvc import plan
    from convsvc.client import AsyncClient, Client
    from convsvc.comparison import compare
    from convsvc.conversion import convert, verify

    __version__: str

__all__ = ["convert", "verify", "compare", "plan", "Client", "AsyncClient", "__version__"]


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("convsvc")
    if name == "plan":
        return import_module("convsvc.plan")  # the package itself is callable
    conversion, client = "convsvc.conversion", "convsvc.client"
    places = {"convert": conversion, "verify": conversion, "compare": "convsvc.comparison", "Client": client, "AsyncClient": client}
    if name in places:
        return getattr(import_module(places[name]), name)
    raise AttributeError(f"module 'convsvc' has no attribute {name!r}")
