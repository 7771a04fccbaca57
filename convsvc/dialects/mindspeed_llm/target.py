"""Writing a checkpoint of MindSpeed-LLM."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from convsvc.dialects.base import Adapted, Layout, Output, SideFile, Target, Wants
from convsvc.dialects.mcore.new_files import output
from convsvc.dialects.mcore.rank_files import layout, prefix_of
from convsvc.dialects.mcore.rows import rows_of
from convsvc.dialects.mcore.settings import Settings, write_settings
from convsvc.dialects.mindspeed_llm.job import MindSpeedSource, MindSpeedTarget
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import Roots
from convsvc.spec import Options, SourceSpec


class MindSpeedLlm(Target):
    """Rank files as training resumes from them: args, tracker, iteration 1."""

    name = "mindspeed-llm"
    title = "MindSpeed-LLM, Megatron mcore"
    variants = MappingProxyType(
        {
            "moe_grouped_gemm": {"moe_grouped_gemm": True},
            "mla_mm_split": {"mla_mm_split": True},
            "transformer_impl: transformer_engine": {"transformer_impl": "transformer_engine"},
        }
    )

    def wants(self, target: MindSpeedTarget) -> Wants:
        """Not asked for is not dropped: MTP layers lie beside the ranks then, for the way back. Who asks for 0 does not want them."""
        return Wants(target.mtp_num_layers or 0, target.mtp_num_layers is None)

    def settings(self, target: MindSpeedTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        return write_settings(target, model)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings, TABLES)

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings, TABLES)

    def prefix(self, scope: Scope) -> str:
        return prefix_of(scope, scope.number)

    def output(
        self,
        target: MindSpeedTarget,
        model: Model,
        settings: Settings,
        facts: Facts,
        layout: Layout,
        dtypes: tuple[str, ...],
        options: Options,
        roots: Roots,
    ) -> tuple[Layout, Output]:
        return output(target, model, settings, facts, layout, dtypes)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return MindSpeedSource(format="mindspeed-llm", path=path, architecture=architecture)


TARGET = MindSpeedLlm()
