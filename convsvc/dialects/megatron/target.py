"""Writing a distributed checkpoint of Megatron-LM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.base import Adapted, Draft, Layout, Output, SideFile, Target, Wants
from convsvc.dialects.huggingface.new_files import parse_size
from convsvc.dialects.mcore.seen_sizes import pad_vocab
from convsvc.dialects.megatron.job import MegatronSource, MegatronTarget
from convsvc.dialects.megatron.layout import Keys, is_usually_stacked, lay_target
from convsvc.dialects.megatron.new_files import output
from convsvc.dialects.megatron.tables import key_rows
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.spec import SourceSpec

# Of the values that chunk_size counts in: bf16, which most weights are.
VALUE_BYTES = 2


class Megatron(Target):
    """Global keys in `.distcp` files, which training loads at any layout."""

    name = "megatron"
    title = "Megatron-LM, torch_dist"

    def wants(self, target: MegatronTarget) -> Wants:
        """All MTP layers, or as many as are asked for; others are not kept."""
        return Wants(target.mtp_num_layers, target.mtp_num_layers is None)

    def settings(self, target: MegatronTarget, model: Model, adapted: Adapted | None = None) -> Keys:
        stacked = is_usually_stacked(model) if target.layer_keys == "auto" else target.layer_keys == "stacked"
        padded = pad_vocab(model.sizes["vocab"], target.make_vocab_size_divisible_by, 1)
        return Keys(padded, stacked, chunk_elements=max(1, parse_size(target.chunk_size) // VALUE_BYTES))

    def layout(self, model: Model, settings: Keys) -> Layout:
        return lay_target(model, settings)

    def rows(self, scope: Scope, model: Model, settings: Any) -> Rows:
        return key_rows(scope, model)

    def prefix(self, scope: Scope) -> str:
        return scope.logical if scope.kind in ("layer", "mtp_block") else ""

    def output(self, draft: Draft[MegatronTarget, Keys]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        return MegatronSource(format="megatron", path=path, architecture=architecture)


TARGET = Megatron()
