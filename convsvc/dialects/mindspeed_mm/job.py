"""What a job may say of a checkpoint of MindSpeed-MM: the fields of its converters, by their names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from convsvc.spec.fields import Count, Path, Size, Strict
from convsvc.spec.model import ARCHITECTURE, Architecture
from convsvc.spec.places import OWN_HEAD, SourceSpec, TargetSpec

Stages = Annotated[tuple[Count, ...], Field(min_length=1, max_length=10_000)]
# Layers of each pipeline stage; or of each virtual stage, a list a chunk.
PipelineLayers = Stages | Annotated[tuple[Stages, ...], Field(min_length=1, max_length=1000)]
PIPELINE = "Layers of the {what} in each pipeline stage, e.g. [1, 10, 10, 7]; with virtual stages a list for each chunk. {more}"
SHORTER = "A list shorter than the pipeline begins again: [3] is all of it in every stage."


class MindSpeedMMLayout(Strict):
    """How each module is cut. `None` in a source means: as the names and shapes in the rank files show."""

    llm_pp_layers: PipelineLayers | None = Field(
        None, description=PIPELINE.format(what="text decoder", more="A list shorter than the pipeline ends in empty stages.")
    )
    vit_pp_layers: PipelineLayers | None = Field(None, description=PIPELINE.format(what="image encoder", more=SHORTER))
    audio_pp_layers: PipelineLayers | None = Field(None, description=PIPELINE.format(what="audio encoder", more=SHORTER))
    tp_size: Size | None = Field(None, description="Ranks a layer's matrices are cut over (tp).")
    vit_tp_size: Count | None = Field(None, description="The same of the image encoder; 0 or left out: as tp_size.")
    audio_tp_size: Count | None = Field(None, description="The same of the audio encoder; 0 or left out: as tp_size.")
    ep_size: Size | None = Field(None, description="Ranks the experts are spread over (ep).")


class MindSpeedMMSource(MindSpeedMMLayout, SourceSpec):
    """Rank files of MindSpeed-MM. They say nothing of the model: its config.json is in config_dir."""

    format: Literal["mindspeed-mm"]
    iteration: Annotated[str, Field(pattern=r"^(release|[0-9]{1,12})$")] | None = Field(None, description="Instead of the tracker's.")
    enable_canonical_hf_struct: bool | None = Field(
        None, description="Queries, keys, values, gates apart, as Hugging Face has them. Without it, as the names show."
    )
    ldt: bool | None = Field(None, description="Whether the output layer is in the first stage again (U shape); without it, as it lies.")
    config_dir: Path | None = Field(None, description="A directory with the model's config.json (Hugging Face's).")
    like_dir: Path | None = Field(
        None,
        description="A Hugging Face directory of the same model: a weight that its index (or its one file) has and the rank files lack is "
        "an error; an output layer that it has is the model's own (own_head). Without weights there, nothing is held against it.",
    )
    own_head: bool = OWN_HEAD
    architecture: Architecture | None = ARCHITECTURE


class MindSpeedMMTarget(MindSpeedMMLayout, TargetSpec):
    """Rank files as MindSpeed-MM loads them: release/ (or iter_0000012/) and in it mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt."""

    format: Literal["mindspeed-mm"]
    enable_canonical_hf_struct: bool | None = Field(
        None,
        description="Queries, keys, values, gates apart, as Hugging Face has them; false: fused, as Megatron has them. Left out: as the "
        "source has them where that is MindSpeed-MM's, else fused.",
    )
    ldt: bool = Field(False, description="U shape: final norm and output layer in the first stage's last chunk (hf_to_mm_ldt).")
    iteration: Annotated[str, Field(pattern=r"^(release|[1-9][0-9]{0,6})$")] | None = Field(
        None,
        description="What the tracker names; without it that of a source of training, so that training goes on from there (with "
        "--no-load-optim --no-load-rng, as optimizer state is not kept), else release.",
    )
    save_vit_only: bool = Field(False, description="The image encoder alone, with its projector.")
    resize_vocab_size: Size | None = Field(
        None,
        description="Rows of the embedding and the output layer: further rows are zeros; rows beyond it are left out, which is a loss "
        "that options.on_loss must allow.",
    )
    config_dir: Path | None = Field(
        None, description="Where the model's config.json lies, by which the result is read back; without it, a Hugging Face source's own."
    )


SOURCE, TARGET = MindSpeedMMSource, MindSpeedMMTarget
