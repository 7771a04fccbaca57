"""Writing a toy checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from convsvc.dialects.base import Adapted, Entry, NewFile, Output, SideFile, Target, Wants
from convsvc.dialects.huggingface.derived_config import derive
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.roots import Roots
from convsvc.spec import Options, SourceSpec
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

    def layout(self, model: Model, settings: Settings) -> tuple[Entry, ...]:
        return layout(model, settings)

    def rows(self, scope: Scope, model: Model, settings: Settings) -> Rows:
        return rows_of(scope, model, settings)

    def prefix(self, scope: Scope) -> str:
        return f"layer.{scope.number}. " if scope.kind == "layer" else ""

    def output(
        self,
        target: ToyTarget,
        model: Model,
        settings: Settings,
        facts: Facts,
        entries: tuple[Entry, ...],
        dtypes: tuple[str, ...],
        options: Options,
        roots: Roots,
    ) -> tuple[tuple[Entry, ...], Output]:
        specs: dict[str, list[TensorSpec]] = {}
        bytes_by_dtype: dict[str, int] = {}
        for entry, dtype in zip(entries, dtypes, strict=True):
            spec = TensorSpec(entry.laid.name, dtype, entry.laid.shape)
            specs.setdefault(f"{entry.file}.{target.files}", []).append(spec)
            bytes_by_dtype[dtype] = bytes_by_dtype.get(dtype, 0) + spec.size_bytes
        plan = PLANNERS[target.files]
        files = tuple(NewFile(path, target.files, plan(tensors)) for path, tensors in specs.items())
        words = derive(model, facts, bytes_by_dtype)[0] | {"inputs_first": settings.inputs_first}
        placed = tuple(entry._replace(file=f"{entry.file}.{target.files}") for entry in entries)
        return placed, Output(files, (SideFile(WORDS, text=write_words(words), last=True),))

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec:
        return ToySource(format="toy", path=path, architecture=architecture)


TARGET = Toy()
