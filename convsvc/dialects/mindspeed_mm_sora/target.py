"""Writing rank files of a diffusion model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from convsvc.dialects.base import Adapted, Read, Target
from convsvc.dialects.diffusers.layout import seen_of
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.progress import folder_of
from convsvc.dialects.mindspeed_mm_sora.form import FORMAT
from convsvc.dialects.mindspeed_mm_sora.job import PipelineLayers, SoraSource, SoraTarget
from convsvc.dialects.mindspeed_mm_sora.layout import Counts, Settings, check_form, lay_ranks
from convsvc.dialects.mindspeed_mm_sora.new_files import output
from convsvc.dialects.mindspeed_mm_sora.tables import form_of, sums_of
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.roots import Roots
from convsvc.spec import Job, SourceSpec


class Sora(Target):
    """Rank files in release/ or an iteration's directory, with a tracker that says so."""

    name = FORMAT
    diffusion = True

    def settings(self, target: SoraTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        """As the job says. One list of layers in a list is one chunk, which has no number. Raises LayoutError."""
        counts = counts_of(target.pp_layers)
        chunks, stages = (1, 1) if counts is None else (len(counts), len(counts[0]))
        form, beside = form_of(model), counts_of(target.vit_pp_layers)
        others = {} if beside is None else tables_beside(model, beside)
        settings = Settings(form, target.tp_size, counts, chunks > 1, stages > 1, sums=sums_of(model), beside=others)
        check_form(settings.form, settings, model)
        return settings if chunks * stages > 1 else replace(settings, counts=None, beside={})

    def as_found(self, job: Job, settings: Settings, model: Model, read: Read, roots: Roots) -> Settings:
        """At the job's iteration, or at that which the source's training has come to."""
        iteration = cast(SoraTarget, job.target).iteration or (None if read.iteration is None else str(read.iteration))
        return settings if iteration is None else replace(settings, folder=folder_of(iteration))

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_ranks(model, settings)

    def output(self, draft: Draft[SoraTarget, Settings]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: SoraTarget, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return SoraSource(format=FORMAT, path=path)


def tables_beside(model: Model, counts: Counts) -> dict[str, Counts]:
    """The layers of a tower by its stack; none where nothing of it has adapters. Raises LayoutError for a model without a tower."""
    stacks = seen_of(model).stacks
    if "vision" not in stacks:
        raise LayoutError(f"vit_pp_layers: {model.family.name} has no vision tower", do="leave it out")
    return {"vision": counts} if stacks["vision"] else {}


def counts_of(layers: PipelineLayers | None) -> Counts | None:
    """Layers by chunk and stage of a list, or of a list a chunk.

    >>> counts_of((1, 3)), counts_of(((1, 1), (1, 1)))
    (((1, 3),), ((1, 1), (1, 1)))
    """
    if layers is None:
        return None
    rows = tuple(each for each in layers if isinstance(each, tuple))
    return rows or (tuple(each for each in layers if isinstance(each, int)),)


TARGET = Sora()
