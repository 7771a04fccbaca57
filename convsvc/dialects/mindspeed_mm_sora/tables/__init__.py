"""MindSpeed-MM's names of diffusion models' tensors, a module a family: FORMS, by the family's name."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

from convsvc.dialects.mindspeed_mm_sora.form import FRAMEWORK, Form
from convsvc.errors import LayoutError
from convsvc.models.diffusion import Diffusion
from convsvc.models.model import Model


@cache
def forms() -> Mapping[str, Form]:
    """Every family's form."""
    found: dict[str, Form] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        found |= import_module(f"{__name__}.{info.name}").FORMS
    return MappingProxyType(found)


def form_of(model: Model) -> Form:
    """A model's form. Raises LayoutError for a family that MindSpeed-MM has no place for among its diffusion models."""
    form = forms().get(model.family.name)
    if form is None:
        raise LayoutError(
            f"{FRAMEWORK} has no diffusion model {model.family.name}",
            facts=[f"it has {', '.join(forms())}"],
            do=None if isinstance(model.family, Diffusion) else 'convert a model that is none to its format "mindspeed-mm"',
        )
    return form


def sums_of(model: Model) -> Mapping[str, tuple[str, ...]]:
    """Axes that consist of others."""
    return model.family.sums if isinstance(model.family, Diffusion) else {}
