"""Writing a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.base import Adapted, Read, Target
from convsvc.dialects.huggingface.config_files import CONFIG, spoken_vocab
from convsvc.dialects.huggingface.experts import (
    AS_CONFIG_DIR,
    FUSED,
    PER_EXPERT,
    forms_in,
    packed_again,
    packed_as,
    packed_like,
    settings_of,
)
from convsvc.dialects.huggingface.job import HuggingFaceSource, HuggingFaceTarget
from convsvc.dialects.huggingface.layout import Settings, lay_model, packed_in, unclear_folders
from convsvc.dialects.huggingface.new_files import output
from convsvc.dialects.huggingface.quantised import LIKE, NONE
from convsvc.dialects.layout import Layout
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.dialects.peft.job import PeftTarget
from convsvc.errors import JobError, LayoutError
from convsvc.models.model import Model
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Job, SourceSpec, TargetSpec


class HuggingFace(Target):
    """Shards of safetensors, one a layer or of a size, with config.json and what belongs to it."""

    name = "huggingface"
    has_card = True

    def settled(self, target: HuggingFaceTarget, words_dir: str | None) -> TargetSpec:
        """With the source's own configuration and tokenizer where nothing else is said. Adapters alone are PEFT's format."""
        if target.adapter_only:
            return PeftTarget(format="peft", path=target.path, config_dir=target.config_dir)
        return target if target.config_dir is not None else target.model_copy(update={"config_dir": words_dir})

    def likens(self, target: HuggingFaceTarget) -> bool:
        return target.quantization == LIKE

    def spoken_vocab(self, target: HuggingFaceTarget, roots: Roots) -> int | None:
        return spoken_vocab(target.config_dir, roots)

    def settings(self, target: HuggingFaceTarget, model: Model, adapted: Adapted | None = None) -> Settings | None:
        """The rows for the form that experts shall have; where that of others is asked for, `as_found` finds it."""
        if target.experts == FUSED and target.quantization not in (NONE, LIKE):
            raise JobError(
                f"target.experts is {FUSED!r} and target.quantization {target.quantization!r}: experts are quantised one by one",
                do="leave one of them out",
            )
        return None if target.experts == AS_CONFIG_DIR else settings_of(packed_as(target.experts, model))

    def as_found(self, job: Job, settings: Settings | None, model: Model, read: Read, roots: Roots) -> Settings | None:
        """Experts in the form that they have in config_dir, or in the source, whose words it is."""
        target = job.target
        if not isinstance(target, HuggingFaceTarget) or target.experts != AS_CONFIG_DIR or not model.num_experts:
            return settings
        if target.quantization not in (NONE, LIKE):
            return settings_of(packed_like({False: PER_EXPERT}, model, apart=True))
        folder, apart = target.config_dir, target.quantization == LIKE
        forms = forms_in(RootedPath(folder, roots)) if folder is not None and folder != getattr(job.source, "path", None) else {}
        return settings_of(packed_like(forms, model, apart) if forms else packed_again(read.settings, read.model, model, apart))

    def layout(self, model: Model, settings: Settings | None = None) -> Layout:
        packed = packed_in(settings)
        layout = lay_model(model, packed)
        if packed and (unclear := unclear_folders({laid.name: laid.shape for laid in layout.kinds}, packed)):
            raise LayoutError(
                "which way round experts lie in one tensor could not be seen again, as their matrices are square",
                facts=unclear[:5],
                do="set target.experts to 'per-expert'",
            )
        return layout

    def output(self, draft: Draft[HuggingFaceTarget, Settings | None]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if not any(side.path == CONFIG for side in side_files):
            return None
        return HuggingFaceSource(format="huggingface", path=path, architecture=architecture)


TARGET = HuggingFace()
