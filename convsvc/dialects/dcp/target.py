"""Writing a torch distributed checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from convsvc.dialects.base import Adapted, Target
from convsvc.dialects.dcp.job import DcpSource, DcpTarget
from convsvc.dialects.dcp.layout import Settings, lay_target
from convsvc.dialects.dcp.names import with_dot
from convsvc.dialects.dcp.new_files import RELEASE, output
from convsvc.dialects.diffusers.layout import Settings as Published
from convsvc.dialects.diffusers.target import spelling_of
from convsvc.dialects.huggingface.config_files import CONFIG, spoken_vocab
from convsvc.dialects.layout import Layout
from convsvc.dialects.mindspeed_mm_sora.tables import form_of
from convsvc.dialects.named import without_experts
from convsvc.dialects.output import Draft, Output, SideFile
from convsvc.errors import JobError
from convsvc.models.diffusion import Diffusion
from convsvc.models.model import Model
from convsvc.models.spelling import Spelling
from convsvc.roots import Roots
from convsvc.spec import SourceSpec, TargetSpec

# The form of rank files.
TRAINING = "mindspeed-mm"


class Dcp(Target):
    """`.distcp` files, whole tensors or a shard a rank, and `.metadata`."""

    name = "dcp"
    carries = True
    diffusion = True

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
            diffusion=named_by(target.form, model),
        )

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_target(model, settings)

    def output(self, draft: Draft[DcpTarget, Settings]) -> tuple[Layout, Output]:
        layout, made = output(draft)
        return layout, replace(made, notes=(*made.notes, *without_experts(draft.model, draft.target.experts or {})))

    def reopened(self, target: Any, path: str, side_files: Iterable[SideFile], architecture: Any) -> SourceSpec | None:
        if target.form is not None or not any(side.path == CONFIG for side in side_files):
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


def named_by(form: str | None, model: Model) -> Published | None:
    """How a diffusion model's tensors are named; None for another model. Raises JobError, LayoutError."""
    if not isinstance(model.family, Diffusion):
        if form is not None:
            raise JobError(
                f"target.form is {form!r}: only diffusion models have several, and {model.family.title} is none", do="leave it out"
            )
        return None
    if form is None:
        known = ", ".join(sorted({TRAINING, *(each.name for each in model.family.forms)}))
        raise JobError(f"{model.family.title} is a diffusion model: target.form must say whose names it gets", do=f"say one of {known}")
    if form == TRAINING:
        return Published(form_of(model).spelling)
    return Published(spelling_of(form, model.family))


TARGET = Dcp()
