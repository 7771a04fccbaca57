"""What this service is and what it can convert."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

import convsvc
from convsvc.families import FAMILIES
from convsvc.service.access.callers import Anyone
from convsvc.service.problems import problems
from convsvc.spec.formats import sides

router = APIRouter(tags=["catalog"], responses=problems(401, 403, 429))


@router.get("/version")
def version(_: Anyone) -> dict[str, str]:
    """The program's version, and that of this interface."""
    return {"name": "convsvc", "version": convsvc.__version__, "api": "1"}


@router.get("/formats")
def formats(_: Anyone) -> dict[str, list[str]]:
    """The formats a job's source and target may have."""
    return {"source": list(sides("SOURCE")), "target": list(sides("TARGET"))}


@router.get("/families")
def families(_: Anyone) -> list[dict[str, Any]]:
    """The model families that can be converted."""
    return [
        {"name": name, "title": family.title, "model_types": family.model_types, "architectures": family.architectures}
        for name, family in FAMILIES.items()
    ]
