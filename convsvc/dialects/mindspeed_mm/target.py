"""Writing rank files for MindSpeed-MM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from convsvc.dialects.base import Adapted, Read, Target, Wants
from convsvc.dialects.huggingface.config_files import spoken_vocab
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.progress import at_iteration
from convsvc.dialects.mcore.rank_files import layout, prefix_of
from convsvc.dialects.mcore.rows import rows_of
from convsvc.dialects.mindspeed_mm.job import MindSpeedMMSource, MindSpeedMMTarget
from convsvc.dialects.mindspeed_mm.new_files import output
from convsvc.dialects.mindspeed_mm.settings import Settings, settings_for, settings_like
from convsvc.dialects.mindspeed_mm.tables import FORMAT, tables_of
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import Roots
from convsvc.spec import Job, SourceSpec, TargetSpec


class MindSpeedMM(Target):
    """Rank files in release/ or an iteration's directory, with a tracker that says so."""

    name = FORMAT
    of_modules = True
    title = "MindSpeed-MM"
    variants = MappingProxyType({"enable_canonical_hf_struct": {"enable_canonical_hf_struct": True}})

    def settled(self, target: MindSpeedMMTarget, words_dir: str | None) -> TargetSpec:
        """With the configuration that the source is described by, where nothing else is said."""
        return target if target.config_dir is not None else target.model_copy(update={"config_dir": words_dir})

    def spoken_vocab(self, target: MindSpeedMMTarget, roots: Roots) -> int | None:
        return spoken_vocab(target.config_dir, roots)

    def wants(self, target: MindSpeedMMTarget) -> Wants:
        """MTP layers, which it has no place for, lie beside the ranks for the way back; of modules all, or one."""
        return Wants(0, True, ("image_encoder",) if target.save_vit_only else None)

    def settings(self, target: MindSpeedMMTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        return settings_for(target, model)

    def as_found(self, job: Job, settings: Settings, model: Model, read: Read, roots: Roots) -> Settings:
        """In the source's own form, where the job leaves it open and the source has rank files of MindSpeed-MM, too; at its iteration."""
        target = cast(MindSpeedMMTarget, job.target)
        settings = settings_like(settings, target, model, read.settings)
        return replace(settings, cut=at_iteration(settings.cut, target.iteration, read.iteration))

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings.cut, tables_of(model.family.name, settings.canonical))

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings.cut, tables_of(model.family.name, settings.canonical))

    def prefix(self, scope: Scope, model: Model) -> str:
        return prefix_of(scope, scope.number, tables_of(model.family.name, canonical=False).of(scope.module))

    def output(self, draft: Draft[MindSpeedMMTarget, Settings]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if target.save_vit_only or target.config_dir is None or target.resize_vocab_size is not None:
            return None
        return MindSpeedMMSource(format=FORMAT, path=path, config_dir=target.config_dir, architecture=architecture)


TARGET = MindSpeedMM()
