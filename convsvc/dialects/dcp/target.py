"""Writing a torch distributed checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convsvc.dialects.base import Adapted, Draft, Layout, Output, SideFile, Target
from convsvc.dialects.dcp.job import DcpSource, DcpTarget
from convsvc.dialects.dcp.layout import Settings, lay_target
from convsvc.dialects.dcp.names import with_dot
from convsvc.dialects.dcp.new_files import RELEASE, output
from convsvc.dialects.huggingface.config_files import CONFIG, spoken_vocab
from convsvc.models.model import Model
from convsvc.models.spelling import Spelling
from convsvc.roots import Roots
from convsvc.spec import SourceSpec, TargetSpec


class Dcp(Target):
    """`.distcp` files, whole tensors or a shard a rank, and `.metadata`."""

    name = "dcp"
    carries = True

    def settled(self, target: DcpTarget, words_dir: str | None) -> TargetSpec:
        """With the source's own configuration where nothing else is said."""
        return target if target.config_dir is not None else target.model_copy(update={"config_dir": words_dir})

    def spoken_vocab(self, target: DcpTarget, roots: Roots) -> int | None:
        return spoken_vocab(target.config_dir, roots)

    def settings(self, target: DcpTarget, model: Model, adapted: Adapted | None = None) -> Settings:
        return Settings(
            prefix=with_dot(target.prefix),
            shards=target.shards,
            spelling=Spelling(target.names or {}, target.adapter_name),
            experts=target.experts or {},
            copies=target.copies or {},
            folder=RELEASE + "/" if target.release else "",
        )

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_target(model, settings)

    def output(self, draft: Draft[DcpTarget, Settings]) -> tuple[Layout, Output]:
        return output(draft)

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if not any(side.path == CONFIG for side in side_files):
            return None
        return DcpSource(
            format="dcp",
            path=path,
            prefix=target.prefix or None,
            names=target.names,
            adapter_name=target.adapter_name,
            experts=target.experts,
            architecture=architecture,
        )


TARGET = Dcp()
