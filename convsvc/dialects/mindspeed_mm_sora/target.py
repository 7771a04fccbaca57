"""Writing rank files of a diffusion model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Adapted, Draft, Layout, Output, SideFile, Target
from convsvc.dialects.mindspeed_mm_sora.form import FORMAT
from convsvc.dialects.mindspeed_mm_sora.job import PipelineLayers, SoraSource, SoraTarget
from convsvc.dialects.mindspeed_mm_sora.layout import Counts, Settings, check_form, lay_ranks
from convsvc.dialects.mindspeed_mm_sora.new_files import output
from convsvc.dialects.mindspeed_mm_sora.tables import form_of, sums_of
from convsvc.models.model import Model
from convsvc.spec import SourceSpec


class Sora(Target):
    """Rank files in release/, with a tracker that says so."""

    name = FORMAT

    def settings(self, target: SoraTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        """As the job says. One list of layers in a list is one chunk, which has no number. Raises LayoutError."""
        counts = counts_of(target.pp_layers)
        chunks, stages = (1, 1) if counts is None else (len(counts), len(counts[0]))
        settings = Settings(form_of(model), target.tp_size, counts, chunks > 1, stages > 1, sums=sums_of(model))
        check_form(settings.form, settings, model)
        return settings if chunks * stages > 1 else replace(settings, counts=None)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_ranks(model, settings)

    def output(self, draft: Draft[SoraTarget, Settings]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: SoraTarget, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return SoraSource(format=FORMAT, path=path)


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
