"""Reading a PEFT adapter with its base model."""

from __future__ import annotations

import os
from typing import Any

from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.huggingface.checkpoint import open_directory
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.dialects.huggingface.source import HuggingFace
from convsvc.dialects.json_files import read_json
from convsvc.dialects.peft.adapter_files import CONFIG
from convsvc.dialects.peft.adapter_source import adapter_alone, check_adapter, with_adapter
from convsvc.dialects.peft.job import PeftSource
from convsvc.errors import SourceError
from convsvc.models.facts import shown
from convsvc.roots import RootedPath, Roots
from convsvc.spec import Lora


class Peft(HuggingFace):
    """The base model's directory, and the adapters beside it: whatever is asked of the weights is asked of the base."""

    name = "peft"
    certainty = 1

    def recognises(self, root: RootedPath) -> bool:
        return (root / CONFIG).is_file() and not (root / "config.json").is_file()

    def lora(self, source: PeftSource) -> Lora:
        return Lora(path=source.path)

    def settled(self, source: PeftSource, roots: Roots) -> PeftSource:
        return source.model_copy(update={"base_path": _base_path(source, roots)})

    def words_dir(self, source: Any) -> str | None:
        return str(source.base_path)

    def open(self, source: Any, roots: Roots) -> Checkpoint:
        """The headers of both. Raises SourceError where the base is not to be had; FormatError; PathRefused."""
        adapter = RootedPath(source.path, roots)
        check_adapter(adapter, "source.path")
        base = HuggingFaceSource(format="huggingface", path=_base_path(source, roots), architecture=source.architecture)
        return with_adapter(open_directory(base, roots), adapter, "source.path")

    def alone(self, source: PeftSource, roots: Roots) -> Checkpoint:
        """The adapters without their base."""
        return adapter_alone(RootedPath(source.path, roots))


def _base_path(source: PeftSource, roots: Roots) -> str:
    """Where the base model lies: as the job says, or as the adapter does (peft/config.py, base_model_name_or_path)."""
    if source.base_path is not None:
        return source.base_path
    root = RootedPath(source.path, roots)
    check_adapter(root, "source.path")
    named = read_json(root / CONFIG).get("base_model_name_or_path")
    if isinstance(named, str) and os.path.isabs(named) and "\0" not in named and RootedPath(named, roots).is_dir():
        return named
    raise SourceError(
        f"{source.path}: the base model of these adapters is not known",
        facts=[
            f"adapter_config.json names {shown(named)}, which is no absolute path of a directory here"
            if named
            else "adapter_config.json names none"
        ],
        do="state its Hugging Face directory as source.base_path",
    )


SOURCE = Peft()
