"""Writing a diffusion model as it is published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Adapted, Target
from convsvc.dialects.diffusers.job import DiffusersSource, DiffusersTarget
from convsvc.dialects.diffusers.layout import Settings, lay_form
from convsvc.dialects.diffusers.new_files import output
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import JobError, LayoutError
from convsvc.models.diffusion import Diffusion, Spelling
from convsvc.models.model import Model
from convsvc.spec import SourceSpec, TargetSpec


class Diffusers(Target):
    """Safetensors, a shard a layer or of a size, with their index; or one file."""

    name = "diffusers"
    diffusion = True
    has_card = True

    def settled(self, target: DiffusersTarget, words_dir: str | None) -> TargetSpec:
        """With the source's own configuration where nothing else is said."""
        return target if target.config_dir is not None else target.model_copy(update={"config_dir": words_dir})

    def settings(self, target: DiffusersTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        """The form that the job states, else the first. Raises JobError, LayoutError."""
        family = model.family
        if not isinstance(family, Diffusion):
            raise LayoutError(
                f'format "diffusers" holds diffusion models, and {family.title} is none', do='convert it to format "huggingface" instead'
            )
        return Settings(spelling_of(target.form, family), target.before_names or "")

    def layout(self, model: Model, settings: Settings) -> Layout:
        layout, left_out = lay_form(model, settings), settings.spelling.unstored
        if not settings.prefix and not left_out:
            return layout
        kinds = tuple(laid._replace(name=settings.prefix + laid.name.replace(left_out, "")) for laid in layout.kinds)
        return replace(layout, kinds=kinds)

    def output(self, draft: Draft[DiffusersTarget, Settings]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: DiffusersTarget, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return DiffusersSource(format="diffusers", path=path)


def spelling_of(form: str | None, family: Diffusion) -> Spelling:
    """The form that a job states, else the first. Raises JobError for one that there is not, LayoutError for one that is only read."""
    spelling = family.forms[0] if form is None else family.form(form)
    if spelling is None:
        known = ", ".join(each.name for each in family.forms)
        raise JobError(f"target.form is {form!r}; {family.name} has the forms {known}")
    if spelling.renames:
        raise LayoutError(f"the form {spelling.name} of {family.name} is read, and not written", do="choose another form")
    return spelling


TARGET = Diffusers()
