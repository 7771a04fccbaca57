"""What a job may say of a Hugging Face directory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from convsvc.spec.fields import Path
from convsvc.spec.places import MODULES, OWN_HEAD, ModelSource, Modules, TargetSpec


class HuggingFaceSource(ModelSource):
    """A directory with config.json and model*.safetensors or pytorch_model*.bin."""

    format: Literal["huggingface"]
    modules: Modules | None = MODULES
    weights_path: Path | None = Field(
        None, description="One file (.safetensors, .pt, .pth, .bin) whose weights take the place of those in the directory."
    )
    text_decoder_dir: Path | None = Field(
        None,
        description="Of a model of several modules: the directory of a language model whose weights take the place of its text decoder's. "
        "Sizes are those of the model's own config.json.",
    )
    own_head: bool = OWN_HEAD


class HuggingFaceTarget(TargetSpec):
    """A directory with config.json and model*.safetensors, as transformers loads it."""

    format: Literal["huggingface"]
    config_dir: Path | None = Field(
        None, description="Its config, tokenizer and code go with the weights; without it, a Hugging Face source's own."
    )
    quantization: Literal["none", "like-source", "fp8-block", "mxfp4", "int4", "nvfp4"] = Field(
        "none",
        description="How its linear layers are stored: as they are, as the source was published and with its scales, in float8 with a "
        "scale for each 128 x 128 block, or, of a model of experts only these, in 4 bits as compressed-tensors or, nvfp4, ModelOpt does.",
    )
    experts: Literal["as-config-dir", "per-expert", "fused"] = Field(
        "as-config-dir",
        description="A tensor for each expert's matrices, or one for all experts' as transformers 5 keeps them; as-config-dir: as they lie "
        "in that directory, else in the source.",
    )
    adapter_only: bool = Field(False, description="Another way to say format peft: the source's LoRA adapters alone, not merged.")


SOURCE, TARGET = HuggingFaceSource, HuggingFaceTarget
