"""What MindSpeed-MM's converters take: its own fields, so that its users' commands and files are read as they are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

# A number for each stage, or for virtual stages a list of such lists: `check_layers`.
Layers = list[Any]
# Layers in a stage: no model has more.
MOST = 1_000_000
# Whole numbers that may be 0; all others begin at 1. Bounds are checked here, as help texts show types with bounds in pydantic's own words.
MAY_BE_ZERO = ("vit_tp_size", "audio_tp_size")


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: Any, info: Any) -> Any:
        least = 0 if info.field_name in MAY_BE_ZERO else 1
        if type(value) is int and value < least:
            raise ValueError(f"{value} is less than {least}")
        if isinstance(value, str) and value == "" and info.field_name.endswith(("_dir", "_path")):
            raise ValueError("is empty")
        if isinstance(value, list) and info.field_name.endswith("pp_layers"):
            check_layers(value)
        return value


def check_layers(layers: list[Any]) -> None:
    """Raises ValueError for what is no list of counts, a number for each stage, and for each virtual stage a list as long as the first."""
    rows = [row for row in layers if isinstance(row, list)]
    if not layers or not all(rows):
        raise ValueError("is empty")
    if rows and len(rows) < len(layers):
        raise ValueError(f"has numbers and lists side by side: {layers}")
    wrong = [count for row in rows or [layers] for count in row if type(count) is not int or count < 0]
    if wrong:
        raise ValueError(f"has {wrong[0]!r}; layers are counted: 0, 1, 2 ...")
    if (most := max(count for row in rows or [layers] for count in row)) > MOST:
        raise ValueError(f"has {most} layers in a stage; there are at most {MOST}")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"has lists of {', '.join(str(len(row)) for row in rows)} stages; they must be as long as each other")


class HfConfig(Config):
    """The Hugging Face directory."""

    hf_dir: str = Field(description="the Hugging Face directory: weights, config.json, tokenizer")


class Parallel(Config):
    """How a checkpoint is cut."""

    llm_pp_layers: Layers = Field(
        description="layers of the language model in each pipeline stage, e.g. [[1,10,10,7]]; with virtual stages a list for each"
    )
    vit_pp_layers: Layers | None = Field(None, description="layers of the vision tower in each stage, as many stages as llm_pp_layers")
    audio_pp_layers: Layers | None = Field(None, description="layers of the audio tower in each stage, where the model has one")
    tp_size: int = Field(1, description="tensor parallel size")
    vit_tp_size: int = Field(0, description="tensor parallel size of the vision tower; 0: tp_size")
    audio_tp_size: int = Field(0, description="tensor parallel size of the audio tower; 0: tp_size")
    ep_size: int = Field(1, description="expert parallel size")


class Model(Config):
    """What the checkpoint's conventions are, and sizes that config.json says anyway."""

    enable_canonical_hf_struct: bool = Field(False, description="weights are named and kept as Hugging Face's, not fused")
    model_prefix: str | None = Field(None, description='what stands before the names of adapters, e.g. "base_model.model."')
    new_transformers_weight_key: bool = Field(False, description="names are those of transformers 4.52 and later")
    llm_hf_dir: str | None = Field(None, description="take the language model's weights from here")
    resize_vocab_size: int | None = Field(None, description="rows of the embedding in the result")
    tie_word_embeddings: bool | None = Field(None, description="must be what config.json says")
    llm_num_layers: int | None = Field(None, description="must be what config.json says")
    vit_num_layers: int | None = Field(None, description="must be what config.json says")
    audio_num_layers: int | None = Field(None, description="must be what config.json says")
    num_key_value_heads: int | None = Field(None, description="must be what config.json says")
    num_experts: int | None = Field(None, description="must be what config.json says")


class HfToMm(Config):
    """To Megatron-style rank files."""

    mm_dir: str = Field(description="the directory to write")
    hf_config: HfConfig
    llm_hf_config: HfConfig | None = Field(None, description="not used by any converter")
    parallel_config: Parallel
    common_model_config: Model = Field(default_factory=Model)
    save_vit_only: bool = Field(False, description="write the vision tower alone")
    pt_path: str | None = Field(None, description="a .pt file with weights that take the place of the directory's")
    trust_remote_code: bool = Field(False, description="accepted; no code of a checkpoint is ever run")


class LoraHfToMm(HfToMm):
    """Adapters to Megatron-style rank files."""


class MmToHf(Config):
    """From Megatron-style rank files."""

    mm_dir: str = Field(description="the checkpoint to read")
    save_hf_dir: str = Field(description="the directory to write")
    hf_config: HfConfig
    parallel_config: Parallel
    common_model_config: Model = Field(default_factory=Model)
    trust_remote_code: bool = Field(False, description="accepted; no code of a checkpoint is ever run")


class LoraMmToHf(Config):
    """Adapters from Megatron-style rank files."""

    mm_dir: str = Field(description="the checkpoint to read")
    save_hf_dir: str = Field(description="the directory to write")
    hf_config: HfConfig | None = None
    parallel_config: Parallel
    common_model_config: Model = Field(default_factory=Model)


class Resplit(Config):
    """From one cut of rank files to another."""

    source_dir: str = Field(description="the checkpoint to read")
    target_dir: str = Field(description="the directory to write")
    source_parallel_config: Parallel
    target_parallel_config: Parallel
    hf_config: HfConfig | None = Field(None, description="the model's Hugging Face directory, for its config.json")
    common_model_config: Model = Field(default_factory=Model)


class HfToMmDcp(Config):
    """To a torch distributed checkpoint."""

    mm_dir: str = Field(description="the directory to write")
    hf_config: HfConfig


class SoraParallel(Config):
    """How a checkpoint of a diffusion model is cut."""

    tp_size: int = Field(1, description="tensor parallel size")
    pp_layers: Layers | None = Field(None, description="layers in each pipeline stage; with virtual stages a list for each")


class Sora(Config):
    """A diffusion model's checkpoint."""

    source_path: str = Field(description="the directory or file to read")
    target_path: str = Field(description="the directory to write")
    target_parallel_config: SoraParallel = Field(default_factory=SoraParallel)
    hf_dir: str | None = Field(None, description="the model as it is published: its configuration goes with the weights")


class MergeSora(Sora):
    """A diffusion model's checkpoint and its adapters."""

    lora_path: str = Field(description="the adapters' rank files")


class LoraScale(Config):
    """What the adapters were trained with."""

    lora_rank: int = Field(8, description="their rank")
    lora_alpha: int = Field(16, description="the product is multiplied by lora_alpha / lora_rank")
    use_npu: bool = Field(True, description="not used: no accelerator is needed")


class HfToDcp(Config):
    hf_dir: str = Field(description="the Hugging Face directory to read")
    dcp_dir: str = Field(description="the directory to write")


class TiedHfToDcp(HfToDcp):
    tie_weight: bool = Field(False, description="write lm_head.weight, too, where the model ties it to the embedding")


class Qwen3VlHfToDcp(TiedHfToDcp):
    is_lora_base: bool = Field(False, description="with the names that PEFT gives a base model (base_model.model.)")


class GenericHfToDcp(HfToDcp):
    dcp_prefix: str = Field("", description='what the checkpoint puts before its names, e.g. "model."')
    hf_prefix: str = Field("", description="what the names begin with that dcp_prefix takes the place of; others stay as they are")
    tie_weight_mapping: dict[str, str] | None = Field(None, description='tensors to write once more: {"lm_head.weight": "model.x.weight"}')
    fused_linear_names: list[str] | None = Field(None, description='experts to write as matrices: ["gate_up_proj", "down_proj"]')


class DcpToHf(Config):
    load_dir: str = Field(description="the checkpoint to read: the directory with .metadata, or the one above `release`")
    save_dir: str = Field(description="the directory to write")
    model_assets_dir: str = Field(description="the model's Hugging Face directory: its names, configuration and tokenizer")
    to_bf16: bool = Field(False, description="write floating-point tensors in bfloat16")


class GenericDcpToHf(DcpToHf):
    dcp_prefix: str = Field("", description="what the checkpoint puts before its names")
    hf_prefix: str = Field("", description="what stands there in Hugging Face's names")
    fused_linear_names: list[str] | None = Field(None, description="experts that are kept as matrices there")


class Qwen35HfToDcp(HfToDcp):
    dcp_prefix: str = Field("", description='what the checkpoint puts before its names, e.g. "model."')


class Qwen35DcpToHf(Config):
    dcp_dir: str = Field(description="the checkpoint to read")
    save_hf_dir: str = Field(description="the directory to write")
    origin_hf_dir: str = Field(description="the model's Hugging Face directory: its names, configuration and tokenizer")
    dcp_prefix: str = Field("", description="what the checkpoint puts before its names")
    to_bf16: bool = Field(False, description="write floating-point tensors in bfloat16")
    keep_origin_mtp_weights: bool = Field(False, description="MTP layers that were not trained are those of origin_hf_dir")


class ExpertHfToDcp(Config):
    hf_dir: str = Field(description="the Hugging Face directory to read")
    save_dir: str = Field(description="the directory to write")


class ExpertDcpToHf(ExpertHfToDcp):
    dcp_dir: str = Field(description="the checkpoint to read")
    hf_dir: str = Field(description="the model's Hugging Face directory: its names, configuration and tokenizer")


class MoeExpert(Config):
    style: str = Field(description="merge: a layer's experts in one tensor; split: one by one again")
    hf_dir: str = Field(description="the directory to read")
    save_dir: str = Field(description="the directory to write")


class MergeLora(Config):
    base_hf_dir: str = Field(description="the base model's Hugging Face directory")
    lora_dcp_dir: str = Field(description="the checkpoint of the adapters")
    lora_target_modules: str = Field(description="modules with adapters, e.g. q_proj,k_proj")
    save_merged_hf_dir: str = Field(description="the directory to write")
    scaling: float = Field(1.0, gt=0, description="what the product is multiplied by: alpha / r")


class Nothing(Config):
    """No arguments."""
