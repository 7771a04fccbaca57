"""Writing a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.base import Adapted, Draft, Layout, Output, SideFile, Target
from convsvc.dialects.huggingface.config_files import CONFIG, spoken_vocab
from convsvc.dialects.huggingface.job import HuggingFaceSource, HuggingFaceTarget
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.huggingface.new_files import output
from convsvc.dialects.huggingface.quantised import LIKE
from convsvc.dialects.peft.job import PeftTarget
from convsvc.models.model import Model
from convsvc.roots import Roots
from convsvc.spec import SourceSpec, TargetSpec


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

    def settings(self, target: HuggingFaceTarget, model: Model, adapted: Adapted | None = None) -> None:
        """There is nothing to decide: names follow from the model."""

    def layout(self, model: Model, settings: None = None) -> Layout:
        return lay_model(model)

    def output(self, draft: Draft[HuggingFaceTarget, None]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if not any(side.path == CONFIG for side in side_files):
            return None
        return HuggingFaceSource(format="huggingface", path=path, architecture=architecture)


TARGET = HuggingFace()
