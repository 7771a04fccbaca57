"""Writing files that are nothing but tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convsvc.dialects.base import Adapted, Target
from convsvc.dialects.huggingface.copied_files import copied_files
from convsvc.dialects.huggingface.new_files import weights
from convsvc.dialects.layout import Layout
from convsvc.dialects.named import CARRIED, lay_named, layer_of, without_experts
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.dialects.tensor_files.job import TensorFilesTarget
from convsvc.errors import JobError
from convsvc.models.model import Model
from convsvc.models.spelling import Spelling
from convsvc.models.unmodelled import NAME
from convsvc.roots import RootedPath
from convsvc.spec import SourceSpec


@dataclass(frozen=True, slots=True)
class Settings:
    """How names are spelled, and the forms of experts."""

    spelling: Spelling
    experts: Mapping[str, str]

    def described(self) -> dict[str, object]:
        """The settings in JSON, for people."""
        return {name: dict(said) for name, said in (("names", self.spelling.beginnings), ("experts", self.experts)) if said}


class TensorFiles(Target):
    """Shards of safetensors, one a layer or of a size, and their index."""

    name = "tensor-files"

    def settings(self, target: TensorFilesTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        """Raises JobError for a model: its words would be missing."""
        if model.family.name != NAME:
            raise JobError(
                f"target.format tensor-files is for tensors of no known model, and these are of {model.family.name}",
                do=f'use format "huggingface", or say model_type "{NAME}" to convert them as any tensors',
            )
        return Settings(Spelling(target.names or {}, target.adapter_name), target.experts or {})

    def layout(self, model: Model, settings: Settings) -> Layout:
        whole = lay_named(model, settings.experts)
        spelling = settings.spelling
        if not spelling:
            return whole
        spelling.check([laid.name for laid in whole.kinds], "target.names")
        return replace(whole, kinds=tuple([laid._replace(name=spelling.stored(laid.name)) for laid in whole.kinds]))

    def output(self, draft: Draft[TensorFilesTarget, Settings]) -> tuple[Layout, Output]:
        kinds = draft.layout.kinds
        units = [layer_of(kinds[entry.kind].name) if entry.unit == CARRIED else entry.unit for entry in draft.layout.entries]
        layout, output = weights(draft, units)
        unchanged = without_experts(draft.model, draft.settings.experts)
        if draft.target.assets_dir is None:
            return layout, replace(output, notes=(*output.notes, *unchanged))
        beside, notes = copied_files(RootedPath(draft.target.assets_dir, draft.roots), "target.assets_dir")
        return layout, replace(output, side_files=(*beside, *output.side_files), notes=(*output.notes, *unchanged, *notes))

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        """There is no model to be built; that each tensor is where it was planned is compared without."""
        return None


TARGET = TensorFiles()
