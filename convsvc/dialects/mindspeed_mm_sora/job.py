"""What a job may say of MindSpeed-MM's rank files of a diffusion model: the fields of its converters, by their names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Count, Path, Size, Strict
from convsvc.spec.model import Lora
from convsvc.spec.places import SourceSpec, TargetSpec

Stages = Annotated[tuple[Count, ...], Field(min_length=1, max_length=10_000)]
PipelineLayers = Stages | Annotated[tuple[Stages, ...], Field(min_length=1, max_length=1000)]
LAYERS = "Layers in each pipeline stage, e.g. [10, 20]; with virtual stages a list for each chunk, e.g. [[5, 10], [5, 10]]."

TOWER = "As pp_layers, of the vision tower: for adapters of a vision-language model. Without it, all in the first stage."


class SoraSource(SourceSpec, Strict):
    """Rank files of a diffusion model. How they are cut, and which model it is, names and shapes show; what is stated must agree."""

    format: Literal["mindspeed-mm-sora"]
    iteration: Annotated[str, Field(pattern=r"^(release|[0-9]{1,12})$")] | None = Field(None, description="Instead of the tracker's.")
    tp_size: Size | None = Field(None, description="Ranks a layer's matrices are cut over (tp).")
    pp_layers: PipelineLayers | None = Field(None, description=LAYERS)
    vit_pp_layers: PipelineLayers | None = Field(None, description=TOWER)
    config_dir: Path | None = Field(None, description="A directory with the model's config.json, which goes with what is written.")
    lora: Lora | None = Field(None, description="LoRA adapters in rank files of their own (path), which are merged.")


class SoraTarget(TargetSpec, Strict):
    """Rank files as MindSpeed-MM loads them: release/ (or iter_0000012/) and in it mp_rank_TT[_PPP]/model_optim_rng.pt."""

    format: Literal["mindspeed-mm-sora"]
    tp_size: Size = Field(1, description="Ranks a layer's matrices are cut over (tp), for models that MindSpeed-MM cuts so.")
    pp_layers: PipelineLayers | None = Field(None, description=f"{LAYERS} Without it, one stage.")
    vit_pp_layers: PipelineLayers | None = Field(None, description=TOWER)
    iteration: Annotated[str, Field(pattern=r"^(release|[1-9][0-9]{0,6})$")] | None = Field(
        None,
        description="What the tracker names; without it that of a source of training, so that training goes on from there (with "
        "--no-load-optim --no-load-rng, as optimizer state is not kept), else release.",
    )


SOURCE, TARGET = SoraSource, SoraTarget
