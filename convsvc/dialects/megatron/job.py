"""What a job may say of a checkpoint of NVIDIA's Megatron-LM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from convsvc.dialects.mcore.sizes import ParallelSizes, RankFilesSource
from convsvc.spec.fields import Path, Text
from convsvc.spec.places import Modules, TargetSpec

Storage = Literal["torch_dist", "torch", "fsdp_dtensor"]
STORAGE = (
    "How it is stored. torch_dist: `.metadata` and `.distcp` files; fsdp_dtensor: such files with the keys of --use-megatron-fsdp; "
    "torch: `mp_rank_*` files."
)
Bytes = Annotated[Text, Field(pattern=r"^[0-9]{1,6}(\.[0-9]{1,3})?(KB|MB|GB|KiB|MiB|GiB)$")]


class MegatronSource(RankFilesSource):
    """A checkpoint of Megatron-LM: distributed (`--ckpt-format torch_dist` or `fsdp_dtensor`), also as others save it, or rank files.

    The model is read from the saved args, or from a config.json, which must agree with them. Of args that training saved the family has to
    be told: model_type, or config_dir. Sizes are read from rank files' saved args, too; what is stated must agree.
    """

    format: Literal["megatron"]
    storage: Storage = Field("torch_dist", description=STORAGE)
    config_dir: Path | None = Field(
        None, description="A directory with the model's config.json, instead of what the saved args say. Not of torch."
    )
    verify_integrity: bool = Field(
        False,
        description="Of torch_dist: read every file once more before anything else, and compare its SHA-256 with integrity.json, as "
        "Megatron does with --verify-integrity. Without it files of words alone are compared.",
    )

    modules: Modules | None = Field(
        None,
        description="Not of torch. The modules that are converted, of a model of several: its text decoder, whose keys stand under "
        "`language_model.`. The others are named and left out.",
    )

    @model_validator(mode="after")
    def _of_one_storage(self) -> MegatronSource:
        _check_storage(self, RANKS | {"lora"}, {"config_dir", "modules"})
        return self


class MegatronTarget(ParallelSizes, TargetSpec):
    """A checkpoint of Megatron-LM: distributed, which it loads at any tensor, pipeline and expert parallel sizes, or rank files."""

    format: Literal["megatron"]
    storage: Storage = Field("torch_dist", description=STORAGE)
    layer_keys: Literal["stacked", "per-layer", "auto"] = Field(
        "auto",
        description="Of torch_dist: whether all layers share a key, with an axis for them, or have keys of their own. auto: as Megatron "
        "writes the family's usual configuration. Megatron-LM loads either; verl's dist_checkpointing_path wants what its own "
        "configuration has.",
    )
    iteration: Annotated[str, Field(pattern=r"^(release|[1-9][0-9]{0,6})$")] | None = Field(
        None,
        description="What the tracker names; without it that of rank files that training saved, or of the state that is carried. Else "
        "release, where training begins at 0, without optimizer state; of torch 1. Rank files keep a distributed checkpoint's, too.",
    )
    chunk_size: Bytes | None = Field(
        None,
        description="Not of torch: the most bytes of a chunk, in two-byte values, without it 256MiB: a rank reads whole ones. A row or an "
        "expert may have more.",
    )
    verify_integrity: bool = Field(
        False,
        description="Of torch_dist: write integrity.json, the SHA-256 of every file, taken while they are written: Megatron (core 0.18 and "
        "later) checks it with its flag of the same name, --verify-integrity.",
    )
    adapter_only: Literal[False] = Field(False, description="For Hugging Face targets only: adapters are merged.")

    @model_validator(mode="after")
    def _of_one_storage(self) -> MegatronTarget:
        of_ranks = RANKS - {"moe_grouped_gemm"} if self.storage == "fsdp_dtensor" else RANKS
        _check_storage(self, of_ranks, {"layer_keys", "chunk_size"})
        return self


def _check_storage(given: MegatronSource | MegatronTarget, of_ranks: frozenset[str], of_keys: set[str]) -> None:
    """Raises ValueError for fields that say something of the other storage."""
    stated = {name for name, field in type(given).model_fields.items() if getattr(given, name) != field.default}
    if given.storage == "torch" and (foreign := sorted(stated & MINDSPEED)):
        raise ValueError(f"{', '.join(foreign)}: Megatron-LM has no such layout, MindSpeed-LLM has; leave it out, or use mindspeed-llm")
    wrong = sorted(stated & (of_keys if given.storage == "torch" else of_ranks))
    if wrong and given.storage == "torch":
        raise ValueError(f'{", ".join(wrong)}: of storage "torch_dist" and "fsdp_dtensor" only; leave it out')
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: a {given.storage} checkpoint is of no layout, training loads it at any; leave it out")
    if given.storage != "torch_dist" and getattr(given, "verify_integrity", False):
        raise ValueError("verify_integrity: Megatron has integrity.json in torch_dist alone; leave it out")
    if given.storage == "fsdp_dtensor" and getattr(given, "layer_keys", None) == "stacked":
        raise ValueError("layer_keys: Megatron-FSDP has keys of each layer; leave it out")


RANKS = frozenset(ParallelSizes.model_fields) - {"make_vocab_size_divisible_by", "mtp_num_layers"}
# What MindSpeed-LLM's training alone loads.
MINDSPEED = frozenset({"num_layer_list", "noop_layers", "schedules_method", "moe_tp_extend_ep", "mla_mm_split"})
SOURCE, TARGET = MegatronSource, MegatronTarget
