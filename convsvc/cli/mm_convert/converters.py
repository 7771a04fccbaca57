"""The converters there are: their sub-commands, what these take, and the job that follows; or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from convsvc.cli.mm_convert import configs as take
from convsvc.cli.mm_convert import dcp_jobs, mm_jobs, sora_jobs

Make = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
CFG = "cfg"


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command: what it is for, what it takes (below `cfg` where `nested`), and the job of that and the converter's own arguments.

    `refused` says why it makes no job, and what to use. `beside` it takes beside `cfg`, as the converter's own arguments.
    """

    words: str
    takes: type[BaseModel] = take.Nothing
    job: Make | None = None
    nested: bool = False
    refused: str = ""
    beside: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class Converter:
    """A converter: the model in words, its sub-commands (one called "": the converter itself), its own arguments with their values."""

    words: str
    commands: Mapping[str, Command]
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TO_MM, TO_HF = "Hugging Face to rank files", "rank files to Hugging Face"
RESPLIT = "rank files to rank files of another cut"
TO_DCP, FROM_DCP = "Hugging Face to a torch distributed checkpoint", "a torch distributed checkpoint to Hugging Face"
RANK_FILES = "this model is trained from torch distributed checkpoints, which have no cut: use hf_to_dcp and dcp_to_hf"
SAVED_WHOLE = "use `GenericDCPConverter hf_to_dcp`, with the prefix that its training has, if any"


def _vlm(name: str, words: str, **more: Command) -> Converter:
    """A vision-language model with rank files: both ways, and resplit."""
    commands = {
        "hf_to_mm": Command(TO_MM, take.HfToMm, mm_jobs.hf_to_mm(name), nested=True),
        "mm_to_hf": Command(TO_HF, take.MmToHf, mm_jobs.mm_to_hf(name), nested=True),
        "resplit": Command(RESPLIT, take.Resplit, mm_jobs.resplit(name), nested=True),
    }
    return Converter(words, commands | more)


def _sora(name: str, words: str, *commands: str, arguments: Mapping[str, tuple[str, ...]] | None = None) -> Converter:
    """A diffusion model."""
    said = {
        "hf_to_mm": TO_MM,
        "mm_to_hf": TO_HF,
        "resplit": RESPLIT,
        "source_to_mm": "the published checkpoint to rank files",
        "hf_diffusers_to_mm": "diffusers' directory to rank files",
        "mm_to_hf_diffusers": "rank files to diffusers' directory",
        "lora_hf_to_mm": "adapters to rank files",
        "merge_lora_to_base": "adapters merged into their base model",
        "mm_to_dcp": "rank files to a torch distributed checkpoint",
    }
    made = {
        sub: Command(said[sub], take.MergeSora, sora_jobs.sora(name, sub), nested=True, beside=take.LoraScale)
        if sub == "merge_lora_to_base"
        else Command(said[sub], take.Sora, sora_jobs.sora(name, sub), nested=True)
        for sub in dict.fromkeys((*commands, "hf_to_mm", "mm_to_hf", "resplit"))
    }
    return Converter(words, made, arguments or {})


def _dcp(words: str, to: Command | None, back: Command, **more: Command) -> Converter:
    """A model that is trained from torch distributed checkpoints."""
    refused = {sub: Command("not for this model", refused=RANK_FILES) for sub in ("hf_to_mm", "mm_to_hf", "resplit")}
    return Converter(words, {"hf_to_dcp": to or Command("not for this model", refused=SAVED_WHOLE), "dcp_to_hf": back} | more | refused)


_FROM_DCP = Command(FROM_DCP, take.DcpToHf, dcp_jobs.dcp_to_hf)
MERGE = "adapters of a torch distributed checkpoint merged into their base model"
_LORA_TO_DCP = Command("PEFT adapters to a torch distributed checkpoint", take.HfToDcp, dcp_jobs.lora_hf_to_dcp)

CONVERTERS: Mapping[str, Converter] = {
    "Qwen2VLConverter": _vlm("Qwen2VLConverter", "Qwen2-VL"),
    "Qwen2_5_VLConverter": _vlm(
        "Qwen2_5_VLConverter",
        "Qwen2.5-VL",
        hf_to_mm_ldt=Command(
            "Hugging Face to rank files in a U (ldt)", take.HfToMm, mm_jobs.hf_to_mm("Qwen2_5_VLConverter", True), nested=True
        ),
        hf_to_mm_dcp=Command(TO_DCP, take.HfToMmDcp, dcp_jobs.hf_to_mm_dcp, nested=True),
        lora_hf_to_mm=Command("PEFT adapters to rank files", take.LoraHfToMm, mm_jobs.lora_hf_to_mm, nested=True),
        lora_mm_to_hf=Command("adapters in rank files to PEFT", take.LoraMmToHf, mm_jobs.lora_mm_to_hf, nested=True),
    ),
    "InternVLConverter": _vlm("InternVLConverter", "InternVL 2.5 and 3"),
    "Qwen2_5_OmniConverter": _vlm("Qwen2_5_OmniConverter", "Qwen2.5-Omni"),
    "Qwen3VLMegatronConverter": _vlm("Qwen3VLMegatronConverter", "Qwen3-VL and Qwen3-VL-MoE, in rank files"),
    "GlmConverter": _vlm("GlmConverter", "GLM-4.1V"),
    "DeepSeekVLConverter": _vlm("DeepSeekVLConverter", "DeepSeek-VL2"),
    "VideoAlignConverter": _vlm("VideoAlignConverter", "VideoAlign, a reward model on Qwen2-VL"),
    "Qwen3VLConverter": _dcp(
        "Qwen3-VL and Qwen3-VL-MoE",
        Command(TO_DCP, take.Qwen3VlHfToDcp, dcp_jobs.qwen3vl_hf_to_dcp),
        Command(FROM_DCP, take.DcpToHf, dcp_jobs.qwen3vl_dcp_to_hf),
        lora_hf_to_dcp=_LORA_TO_DCP,
        merge_mm_lora_dcp_weight_to_base_hf=Command(MERGE, take.MergeLora, dcp_jobs.merge_lora({"": ""})),
    ),
    "Qwen35Converter": _dcp(
        "Qwen3.5",
        Command(TO_DCP, take.Qwen35HfToDcp, dcp_jobs.qwen35_hf_to_dcp),
        Command(FROM_DCP, take.Qwen35DcpToHf, dcp_jobs.qwen35_dcp_to_hf),
    ),
    "Mistral3Converter": _dcp(
        "Mistral Small 3.1 and its kin",
        Command(TO_DCP, take.TiedHfToDcp, dcp_jobs.mistral3_hf_to_dcp),
        Command(FROM_DCP, take.DcpToHf, dcp_jobs.mistral3_dcp_to_hf),
        lora_hf_to_dcp=_LORA_TO_DCP,
        merge_mm_lora_dcp_weight_to_base_hf=Command(MERGE, take.MergeLora, dcp_jobs.merge_lora(dcp_jobs.MISTRAL3)),
    ),
    "GenericDCPConverter": _dcp(
        "any model, by its names",
        Command(TO_DCP, take.GenericHfToDcp, dcp_jobs.generic_hf_to_dcp),
        Command(FROM_DCP, take.GenericDcpToHf, dcp_jobs.generic_dcp_to_hf),
    ),
    "ExpertMergeDcpConverter": _dcp(
        "InternVL3.5, GLM-4.5V, Qwen3-Omni: a layer's experts in one tensor",
        Command(TO_DCP, take.ExpertHfToDcp, dcp_jobs.expert_hf_to_dcp),
        Command(FROM_DCP, take.ExpertDcpToHf, dcp_jobs.expert_dcp_to_hf),
    ),
    "Qwen3TTSConverter": _dcp("Qwen3-TTS", None, _FROM_DCP),
    "MOSSTTSConverter": _dcp("MOSS-TTS", None, _FROM_DCP),
    "moe_expert": Converter(
        "a Hugging Face directory with a layer's experts in one tensor, and back",
        {"": Command("merge or split experts", take.MoeExpert, dcp_jobs.moe_expert)},
    ),
    "WanConverter": _sora("WanConverter", "Wan 2.1 and 2.2", "lora_hf_to_mm", "merge_lora_to_base", "mm_to_dcp"),
    "VACEConverter": _sora("VACEConverter", "VACE", "hf_diffusers_to_mm", "mm_to_hf_diffusers"),
    "HunyuanVideoConverter": _sora("HunyuanVideoConverter", "HunyuanVideo", "source_to_mm", arguments={"version": ("t2v", "i2v")}),
    "OpenSoraPlanConverter": _sora(
        "OpenSoraPlanConverter", "Open-Sora Plan", "source_to_mm", arguments={"version": ("v1.2", "v1.3", "v1.5")}
    ),
    "CogVideoConverter": _sora(
        "CogVideoConverter",
        "CogVideoX",
        "source_to_mm",
        arguments={"version": ("t2v", "i2v"), "remove_pos_emb": ("true", "false")},
    ),
    "LuminaConverter": _sora("LuminaConverter", "Lumina"),
    "BagelConverter": _sora("BagelConverter", "BAGEL"),
    "StepVideoConverter": _sora("StepVideoConverter", "Step-Video"),
    "OpenSoraConverter": _sora("OpenSoraConverter", "Open-Sora"),
}
