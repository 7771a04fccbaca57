"""Writing a checkpoint of MindSpore Transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from convsvc.dialects.base import Adapted, Target, Wants
from convsvc.dialects.huggingface.config_files import CONFIG, spoken_vocab
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindformers.job import LayoutFlags, MindFormersSource, MindFormersTarget
from convsvc.dialects.mindformers.layout import Settings, lay_whole, layout
from convsvc.dialects.mindformers.new_files import rank_output, whole_output
from convsvc.dialects.mindformers.ranks import cuts, sizes_of, strategies
from convsvc.dialects.mindformers.tables import Flags, prefix_of, rows_of
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import Roots
from convsvc.spec import SourceSpec, TargetSpec


class MindFormers(Target):
    """Whole, in parts with their map; or cut over ranks, with strategy files."""

    name = "mindformers"
    title = "MindSpore Transformers"
    variants = MappingProxyType(
        {
            "use_interleaved_weight_layout_mlp: false": {"use_interleaved_weight_layout_mlp": False},
            "use_contiguous_weight_layout_attention": {"use_contiguous_weight_layout_attention": True},
            "stacked_experts": {"stacked_experts": True},
        }
    )

    def settled(self, target: MindFormersTarget, words_dir: str | None) -> TargetSpec:
        """With the source's own configuration where nothing else is said."""
        return target if target.config_dir is not None else target.model_copy(update={"config_dir": words_dir})

    def wants(self, target: MindFormersTarget) -> Wants:
        return Wants(target.mtp_num_layers)

    def spoken_vocab(self, target: MindFormersTarget, roots: Roots) -> int | None:
        return spoken_vocab(target.config_dir, roots)

    def settings(self, target: MindFormersTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        if model.family.others:
            raise LayoutError(
                "mindformers has no place for tensors of modules beside a text decoder: its configuration speaks of one model",
                do="convert the text decoder by way of huggingface, dcp or mindspeed-llm",
            )
        flags = Flags(
            target.use_interleaved_weight_layout_mlp,
            target.use_contiguous_weight_layout_attention,
            target.stacked_experts and bool(model.num_experts),
        )
        whole, sizes = Settings(flags), sizes_of(target, model.num_experts)
        if sizes is None:
            return whole
        stages = strategies(model, whole, sizes)
        shapes = {laid.name: laid.shape for laid in lay_whole(model, whole).kinds}
        return replace(whole, cuts=cuts(stages, shapes, sizes, model.family.name, target.remove_redundancy), strategies=stages)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings)

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings.flags)

    def prefix(self, scope: Scope, model: Model) -> str:
        return prefix_of(scope)

    def output(self, draft: Draft[MindFormersTarget, Settings]) -> tuple[Layout, Output]:
        return rank_output(draft) if draft.settings.cuts else whole_output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if not any(side.path == CONFIG for side in side_files):
            return None
        flags = {name: getattr(target, name) for name in LayoutFlags.model_fields}
        return MindFormersSource(format="mindformers", path=path, **flags)


TARGET = MindFormers()
