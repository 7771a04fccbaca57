"""What a user asks for. Names are loaded when they are first used: the formats' own parts of a job are collected from their folders."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convsvc.spec.job import SPEC_VERSION, Job, Webhook, dump_job, job_schema, parse_job, parse_source, parse_target
    from convsvc.spec.model import Architecture, Lora, stated_sizes
    from convsvc.spec.options import Options
    from convsvc.spec.places import ModelSource, SourceSpec, TargetSpec

_PLACES = {
    "job": ("SPEC_VERSION", "Job", "Webhook", "dump_job", "job_schema", "parse_job", "parse_source", "parse_target"),
    "model": ("Architecture", "Lora", "stated_sizes"),
    "options": ("Options",),
    "places": ("ModelSource", "SourceSpec", "TargetSpec"),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _PLACES.items() for name in names}

__all__ = [
    "SPEC_VERSION",
    "Architecture",
    "Job",
    "Lora",
    "ModelSource",
    "Options",
    "SourceSpec",
    "TargetSpec",
    "Webhook",
    "dump_job",
    "job_schema",
    "parse_job",
    "parse_source",
    "parse_target",
    "stated_sizes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
