"""Writing a checkpoint of MindSpeed-LLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.target import RankFiles
from convsvc.dialects.mindspeed_llm.job import MindSpeedSource
from convsvc.dialects.mindspeed_llm.own_args import layout_args, layout_notes
from convsvc.dialects.mindspeed_llm.tables import FORMAT, TABLES
from convsvc.dialects.output import SideFile
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.spec import SourceSpec


class MindSpeedLlm(RankFiles):
    name, tables = FORMAT, TABLES
    title = "MindSpeed-LLM, Megatron mcore"
    variants = MappingProxyType(
        {
            "moe_grouped_gemm": {"moe_grouped_gemm": True},
            "mla_mm_split": {"mla_mm_split": True},
            "transformer_impl: transformer_engine": {"transformer_impl": "transformer_engine"},
        }
    )

    def own_args(self, model: Model, settings: Settings, facts: Facts) -> Mapping[str, Any]:
        return layout_args(model, settings)

    def advice(self, model: Model, settings: Settings) -> tuple[Note, ...]:
        return layout_notes(model, settings)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return MindSpeedSource(format="mindspeed-llm", path=path, architecture=architecture)


TARGET = MindSpeedLlm()
