"""The job: what a user asks for, as JSON or YAML; the same for the service, the CLI and Python.

Names are those of the tools users come from. Unknown fields are errors; every error says which field, what was given, what
is allowed. Nothing here looks at a disk or knows a model.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from convsvc.errors import JobError
from convsvc.job_text import parse_text

# Grows with every field or value that a version before does not know: an executor takes only jobs that it can read.
SPEC_VERSION = 2
LARGEST = 2**31 - 1
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
# No file system takes a NUL in a name, nor PostgreSQL in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
# A number for each of a model's layers, or stages.
Counts = Annotated[tuple[Count, ...], Field(max_length=10_000)]
_SHOWN_FAULTS = 50


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParallelSizes(Strict):
    """How a Megatron-style checkpoint is cut. `None` in a source means: as its saved args say."""

    tensor_parallel_size: Size | None = Field(None, description="Ranks a layer's matrices are cut over (tp).")
    pipeline_parallel_size: Size | None = Field(None, description="Ranks the layers are spread over (pp).")
    expert_parallel_size: Size | None = Field(None, description="Ranks the experts are spread over (ep).")
    expert_tensor_parallel_size: Size | None = Field(None, description="Ranks one expert's matrices are cut over (etp): 1 or tp.")
    num_layers_per_virtual_pipeline_stage: Size | None = Field(None, description="Layers in one virtual pipeline stage (vpp).")
    num_virtual_stages_per_pipeline_rank: Size | None = Field(None, description="Virtual pipeline stages in a pipeline stage.")
    decoder_first_pipeline_num_layers: Size | None = Field(None, description="Layers of the first pipeline stage; the others are even.")
    decoder_last_pipeline_num_layers: Size | None = Field(None, description="Layers of the last pipeline stage; the others are even.")
    account_for_embedding_in_pipeline_split: bool | None = Field(None, description="Count the embedding as a layer of the first stage.")
    account_for_loss_in_pipeline_split: bool | None = Field(None, description="Count the output as a layer of the last stage.")
    pipeline_model_parallel_layout: Annotated[Text, Field(max_length=10_000)] | None = Field(
        None, description='What each virtual stage holds, e.g. "Et*3|(tt|)*29,m|L": E embedding, t layer, m MTP layer, L output.'
    )
    num_layer_list: Counts | None = Field(None, description="Layers of each pipeline stage, e.g. [1, 3, 2, 2].")
    noop_layers: Counts | None = Field(None, description="Layer numbers that hold nothing, counted with them included.")
    schedules_method: Literal["dualpipev"] | None = Field(None, description="Pipeline schedule that changes where layers lie.")
    moe_grouped_gemm: bool | None = Field(None, description="Experts stacked in weight1/weight2, not one by one.")
    moe_tp_extend_ep: bool | None = Field(None, description="Spread experts over tp x ep and keep each whole.")
    mla_mm_split: bool | None = Field(None, description="MLA's up projections in four matrices.")
    mtp_num_layers: Count | None = Field(None, description="Multi-token-prediction layers to convert.")
    transformer_impl: Literal["local", "transformer_engine"] | None = Field(None, description="Whose module names are used.")
    make_vocab_size_divisible_by: Size | None = Field(
        None, description="Pad the vocabulary with zero rows to a multiple of this x tp. Without it the vocabulary is never padded."
    )


class Architecture(Strict):
    """Sizes of the model that a source does not state itself, by its names or Megatron's; what is stated must agree.

    For mamba2: MindSpeed-LLM's converter saves its checkpoints without args, and a state-spaces configuration is silent about most.
    """

    hidden_size: Size | None = None
    num_hidden_layers: Size | None = None
    mamba_state_dim: Size | None = Field(None, description="A state's size.")
    mamba_num_groups: Size | None = Field(None, description="Groups of heads.")
    mamba_head_dim: Size | None = Field(None, description="A head's width.")
    mamba_num_heads: Size | None = Field(None, description="Heads; without it, as many as fill twice the hidden size.")


def stated_sizes(architecture: Architecture | None) -> dict[str, int]:
    """What is stated, by name."""
    return {} if architecture is None else architecture.model_dump(exclude_none=True)


ARCHITECTURE = Field(None, description="Sizes of the model that the source does not state itself (mamba2).")


class Lora(Strict):
    """Adapters in the source, merged into the weights they belong to. What the adapters' checkpoint says must agree."""

    path: Path | None = Field(
        None,
        description="A checkpoint of the adapters alone (for Hugging Face: PEFT's directory); without it they lie beside the base weights.",
    )
    r: Size | None = Field(None, description="Rank; read from the checkpoint where it says it.")
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="The scale is alpha / r; read from the checkpoint where it says it."
    )
    use_rslora: bool | None = Field(None, description="The scale is alpha / sqrt(r); read from the checkpoint where it says it.")
    target_modules: Annotated[tuple[Text, ...], Field(max_length=1000)] = Field(
        (), description="Modules with adapters; what has none is noted, what has and is not named is used too."
    )


class HuggingFaceSource(Strict):
    """A directory with config.json and model*.safetensors or pytorch_model*.bin."""

    format: Literal["huggingface"]
    path: Path
    lora: Lora | None = None
    architecture: Architecture | None = ARCHITECTURE


class HuggingFaceTarget(Strict):
    format: Literal["huggingface"]
    path: Path
    config_dir: Path | None = Field(
        None, description="Its config, tokenizer and code go with the weights; without it, a Hugging Face source's own."
    )
    adapter_only: bool = Field(False, description="Write the source's LoRA adapters as a PEFT adapter instead of merging them.")


class MegatronSource(ParallelSizes):
    """A checkpoint of MindSpeed-LLM: Megatron-mcore rank files. Sizes are read from its saved args; what is stated must agree."""

    format: Literal["mindspeed-llm"]
    path: Path
    iteration: Annotated[str, Field(pattern=r"^(release|[0-9]{1,12})$")] | None = Field(None, description="Instead of the tracker's.")
    lora: Lora | None = None
    architecture: Architecture | None = ARCHITECTURE


class MegatronTarget(ParallelSizes):
    format: Literal["mindspeed-llm"]
    path: Path
    adapter_only: Literal[False] = Field(False, description="For Hugging Face targets only: into rank files, adapters are merged.")

    @field_validator("adapter_only", mode="before")
    @classmethod
    def _merged_only(cls, value: Any) -> Any:
        if value:
            raise ValueError(
                "adapters are not cut into rank files for themselves: q, k and v have an A each, Megatron's fused layer has one; "
                "leave it out to merge them into the base"
            )
        return value


Source = Annotated[HuggingFaceSource | MegatronSource, Field(discriminator="format")]
Target = Annotated[HuggingFaceTarget | MegatronTarget, Field(discriminator="format")]


class Options(Strict):
    dtype: Literal["bf16", "fp16", "fp32"] | None = Field(None, description="Cast floating-point tensors to this.")
    cast_all: bool = Field(
        False, description="With dtype: cast also what model code keeps in float32 (a router's bias, A_log, sinks, hyper-connections)."
    )
    num_layers: Size | None = Field(None, description="Convert a model of this many layers only (debugging).")
    first_k_dense_replace: Count | None = Field(None, description="With num_layers: how many of them are dense (debugging).")
    vocab_size: Size | None = Field(None, description="The real vocabulary, where a padded source does not say it.")
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
    on_exists: Literal["error", "overwrite", "resume"] = "error"
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


class Webhook(Strict):
    """Told once the job has ended: POST with the job's JSON, signed, sent again until it is taken."""

    url: str = Field(min_length=1, max_length=2000, pattern=r"^https?://[^\x00\s]+$", description="A host that the service allows.")


class Job(Strict):
    """A conversion: from `source` to `target`.

    >>> job = parse_job({"source": {"format": "huggingface", "path": "/in"},
    ...                  "target": {"format": "mindspeed-llm", "path": "/out", "tensor_parallel_size": 2}})
    >>> job.target.tensor_parallel_size
    2
    """

    name: Text | None = Field(None, max_length=200)
    model_type: Text | None = Field(None, max_length=200, description="The model family; detected where it is not given.")
    source: Source
    target: Target
    options: Options = Options()
    priority: int = Field(0, ge=-100, le=100, description="In the service's queue: higher ones first, among one tenant's jobs.")
    webhook: Webhook | None = Field(None, description="Called by the service when the job has ended.")

    @field_validator("model_type")
    @classmethod
    def _known_characters(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must not be empty; leave it out to have it detected")
        return value

    @model_validator(mode="after")
    def _two_places(self) -> Job:
        if self.source.path.rstrip("/") == self.target.path.rstrip("/"):
            raise ValueError(f"source.path and target.path are the same: {self.source.path}")
        return self


def parse_job(data: Any) -> Job:
    """The job that `data` (a dict, or JSON or YAML text) describes.

    Raises JobError with one fact for each wrong field.
    """
    if isinstance(data, Job):
        return data
    if isinstance(data, str | bytes):
        data = parse_text(data)
    if not isinstance(data, dict):
        raise JobError(f"a job is an object with source and target, not {type(data).__name__}")
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        count = error.error_count()
        faults = [_fault(item) for item in error.errors(include_url=False)[:_SHOWN_FAULTS]]
        more = [f"and {count - _SHOWN_FAULTS} more"] if count > _SHOWN_FAULTS else []
        raise JobError(
            f"the job has {count} wrong field{'s' if count > 1 else ''}",
            facts=[fault["text"] for fault in faults] + more,
            details={"fields": faults},
        ) from None


def job_schema() -> dict[str, Any]:
    """The JSON Schema of a job."""
    return Job.model_json_schema()


def dump_job(job: Job) -> dict[str, Any]:
    """The job as JSON, without what was not set."""
    return job.model_dump(mode="json", exclude_none=True)


def _fault(item: Any) -> dict[str, Any]:
    # The tag of a union is part of pydantic's location ("source", "huggingface", "path"); users wrote source.path.
    where = [str(part) for part in item["loc"]]
    if len(where) > 1 and where[0] in ("source", "target"):
        where = [where[0], *where[2:]]
    field = ".".join(where) or "job"
    given = item.get("input")
    shown = json.dumps(given, default=str, skipkeys=True)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        text = f"{field}: there is no such field (given {shown})"
    elif item["type"] == "missing":
        text = f"{field}: is required"
    else:
        text = f"{field}: {message[0].lower()}{message[1:]} (given {shown})"
    return {"field": field, "given": given if isinstance(given, str | int | float | bool | None) else shown, "text": text}
