"""How a conversion is done, whatever its formats are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from convsvc.spec.fields import Count, Size, Strict


class Options(Strict):
    dtype: Literal["bf16", "fp16", "fp32"] | None = Field(None, description="Cast floating-point tensors to this.")
    cast_all: bool = Field(
        False, description="With dtype: cast also what model code keeps in float32 (a router's bias, A_log, sinks, hyper-connections)."
    )
    widen_kept: bool = Field(
        False, description="With dtype: write what model code keeps in float32 so, also where the source has it in that dtype already."
    )
    num_layers: Size | None = Field(None, description="Convert a model of this many layers only (debugging).")
    first_k_dense_replace: Count | None = Field(None, description="With num_layers: how many of them are dense (debugging).")
    vocab_size: Size | None = Field(None, description="The real vocabulary, where a padded source does not say it.")
    carry_scales: bool = Field(
        True,
        description="Of a quantised source: its scales lie beside the weights for training, so that target.quantization like-source gives "
        "back what was published.",
    )
    state: Literal["weights", "training"] = Field(
        "weights",
        description="What is converted. training: the optimizer's state too, with iteration, step and learning rate, so that training goes "
        "on; between distributed checkpoints of Megatron-LM. weights: state that lies beside them is left out, and a note names it.",
    )
    max_shard_size: str | None = Field(
        None,
        pattern=r"^[0-9]{1,15}(\.[0-9]{1,15})? *([KMGT]i?B|B)$",
        description='Hugging Face shards, e.g. "5GB". Without it: one shard a layer.',
    )
    verify: Literal["none", "digest", "roundtrip", "full"] = Field(
        "digest",
        description="How the target is checked before it is published. Always: it is opened, from its own files alone, and must be what "
        "was planned. digest: all bytes are read back. roundtrip: the source is computed from the target too, and compared. full: both, "
        "and every header, checksum and side file byte for byte.",
    )
    on_exists: Literal["error", "overwrite", "resume", "reuse"] = Field(
        "error",
        description="What happens where the target exists. reuse: where it was made of this source by a job that asks for the same, and is "
        "whole, nothing is done and the job has succeeded (already done); anything else there is an error.",
    )
    check_copies: Literal["all", "small", "none"] = Field(
        "all",
        description="Which copies of a tensor, held by other ranks, are compared with the one that is converted: all, those of up to "
        "16 MiB (norms, routers), none. What lies under another name (a tied head) always is.",
    )
    on_loss: Literal["error", "note"] = Field(
        "error", description="What happens where values of the source would be lost: the job is refused, or it says so and goes on."
    )
    on_overflow: Literal["error", "note"] = Field(
        "error", description="What happens where a cast (to fp16, as a rule) makes finite values infinite: the job ends, or it says so."
    )
    report: Literal["both", "beside"] = Field(
        "both", description="Where conversion-report.json lies: beside the target and in it, or beside it only."
    )
    card: Literal["beside", "both", "none"] = Field(
        "beside",
        description="Where a Hugging Face target's model card, conversion-report.md, lies: beside it, in it too, or nowhere.",
    )
    picture: Literal["beside", "none"] = Field(
        "beside", description="Where the picture of what went where, conversion-report.html, lies: beside the target, or nowhere."
    )

    @model_validator(mode="after")
    def _as_training_has_it(self) -> Options:
        stated = [name for name in ("dtype", "cast_all", "widen_kept", "num_layers", "first_k_dense_replace") if getattr(self, name)]
        if self.state == "training" and stated:
            raise ValueError(f"{', '.join(stated)}: with state training, training goes on with the model as it is; leave it out")
        return self
