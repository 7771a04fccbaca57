"""Writing a toy checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from convsvc.dialects.base import Adapted, Target, Wants
from convsvc.dialects.huggingface.derived_config import derive
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.spec import SourceSpec
from tests.dialects.toy import toybox
from tests.dialects.toy.job import ToySource, ToyTarget
from tests.dialects.toy.table import Settings, layout, rows_of
from tests.dialects.toy.words import WORDS, write_words

PLANNERS = {"safetensors": safetensors.plan_skeleton, "toybox": toybox.plan_skeleton}


class Toy(Target):
    name = "toy"
    title = "Toy"
    variants = MappingProxyType({"inputs_first: false": {"inputs_first": False}})

    def wants(self, target: ToyTarget) -> Wants:
        """It has no place for MTP layers."""
        return Wants(0, carry_mtp=False)

    def settings(self, target: ToyTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        return Settings(target.inputs_first)

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings)

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings)

    def prefix(self, scope: Scope, model: Model) -> str:
        return f"layer.{scope.number}. " if scope.kind == "layer" else ""

    def output(self, draft: Draft[ToyTarget, Settings]) -> tuple[Layout, Output]:
        target, layout, specs = draft.target, draft.layout, draft.specs()
        placed = tuple([entry._replace(file=f"{entry.file}.{target.files}") for entry in layout.entries])
        held: dict[str, list[TensorSpec]] = {}
        bytes_by_dtype: dict[str, int] = {}
        for entry in placed:
            spec = specs[entry.kind]
            held.setdefault(entry.file, []).append(spec)
            bytes_by_dtype[spec.dtype] = bytes_by_dtype.get(spec.dtype, 0) + spec.size_bytes
        files = tuple([NewFile(path, target.files, number) for number, path in enumerate(held)])
        skeletons = tuple(map(PLANNERS[target.files], held.values()))
        words = derive(draft.model, draft.facts, bytes_by_dtype)[0] | {"inputs_first": draft.settings.inputs_first}
        return replace(layout, entries=placed), Output(files, skeletons, (SideFile(WORDS, text=write_words(words), last=True),))

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec:
        return ToySource(format="toy", path=path, architecture=architecture)


TARGET = Toy()
