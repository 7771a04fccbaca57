"""Jobs with torch distributed checkpoints: names, prefixes and forms of experts as each of MindSpeed-MM's converters has them.

MindSpeed-MM saves {"model": weights}; within it a model's own prefix, if any, goes before Hugging Face's names (mindspeed-mm.md, DCP).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from convsvc.cli.drop_in import given
from convsvc.cli.mm_convert import configs as take
from convsvc.errors import JobError

STATE, INNER, PEFT, ADAPTER = "model.", "model.", "base_model.model.", "default"
FLAT, STACKED, ONE_BY_ONE, AS_PUBLISHED = "input_first_flat", "input_first", "separate", "output_first"
SHARD = "5GB"
Job = dict[str, Any]
Arguments = Mapping[str, Any]

# Published names of Mistral 3.1, and those of transformers' own modules, which training has.
MISTRAL3 = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
# Qwen3-Omni: the thinker is trained; what else there is keeps its name.
OMNI = {"thinker.": "", "talker.": "talker.", "code2wav.": "code2wav."}


def generic_hf_to_dcp(said: take.GenericHfToDcp, _: Arguments) -> Job:
    copies = given({"copies": said.tie_weight_mapping or None})
    names, experts = _generic(said.dcp_prefix, said.hf_prefix), _fused(said.fused_linear_names)
    return _to(said.hf_dir, said.dcp_dir, names, {"": STACKED} if experts else {}, experts, **copies)


def generic_dcp_to_hf(said: take.GenericDcpToHf, _: Arguments) -> Job:
    names, experts = _generic(said.dcp_prefix, said.hf_prefix), _fused(said.fused_linear_names)
    published = {"": STACKED} if experts else {}
    return _from(said.load_dir, said.save_dir, said.model_assets_dir, names, experts, published, said.to_bf16)


def dcp_to_hf(said: take.DcpToHf, _: Arguments) -> Job:
    """What the checkpoint has, as it is: what lies in model_assets_dir may have other names."""
    job = _from(said.load_dir, said.save_dir, said.model_assets_dir, {}, {}, {}, said.to_bf16)
    del job["source"]["like_dir"]
    return job


def hf_to_mm_dcp(said: take.HfToMmDcp, _: Arguments) -> Job:
    return _to(said.hf_config.hf_dir, said.mm_dir, {"": INNER}, {}, {})


def qwen3vl_hf_to_dcp(said: take.Qwen3VlHfToDcp, _: Arguments) -> Job:
    """Experts of Qwen3-VL-MoE, published input first, become matrices (fully_shard cuts rows)."""
    forms = {"": STACKED} if _has_experts(said.hf_dir) else {}
    names = {"": (PEFT + INNER if said.is_lora_base else INNER)}
    return _to(said.hf_dir, said.dcp_dir, names, forms, {"": FLAT} if forms else {}, **_tied(said, "model.language_model."))


def qwen3vl_dcp_to_hf(said: take.DcpToHf, _: Arguments) -> Job:
    forms = {"": STACKED} if _has_experts(said.model_assets_dir) else {}
    flat = {"": FLAT} if forms else {}
    return _from(said.load_dir, said.save_dir, said.model_assets_dir, {"": INNER}, flat, forms, said.to_bf16)


def qwen35_hf_to_dcp(said: take.Qwen35HfToDcp, _: Arguments) -> Job:
    return _to(said.hf_dir, said.dcp_dir, _generic(said.dcp_prefix), {"mtp.": ONE_BY_ONE, "": AS_PUBLISHED}, {"": STACKED})


def qwen35_dcp_to_hf(said: take.Qwen35DcpToHf, _: Arguments) -> Job:
    there = {"mtp.": ONE_BY_ONE, "": STACKED} if said.keep_origin_mtp_weights else {"": STACKED}
    published = {"mtp.": ONE_BY_ONE, "": AS_PUBLISHED}
    job = _from(said.dcp_dir, said.save_hf_dir, said.origin_hf_dir, _generic(said.dcp_prefix), there, published, said.to_bf16)
    if said.keep_origin_mtp_weights:
        job["source"]["fill_beginning"] = "mtp."
    return job


def mistral3_hf_to_dcp(said: take.TiedHfToDcp, _: Arguments) -> Job:
    names = {old: INNER + new for old, new in MISTRAL3.items()}
    tied = {"copies": {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}} if said.tie_weight else {}
    return _to(said.hf_dir, said.dcp_dir, names, {}, {}, **tied)


def mistral3_dcp_to_hf(said: take.DcpToHf, _: Arguments) -> Job:
    names = {old: INNER + new for old, new in MISTRAL3.items()}
    return _from(said.load_dir, said.save_dir, said.model_assets_dir, names, {}, {}, said.to_bf16)


def expert_hf_to_dcp(said: take.ExpertHfToDcp, _: Arguments) -> Job:
    form, names = _merged(said.hf_dir)
    return _to(said.hf_dir, said.save_dir, _inside(names, INNER), {"": ONE_BY_ONE}, {"": form})


def expert_dcp_to_hf(said: take.ExpertDcpToHf, _: Arguments) -> Job:
    form, names = _merged(said.hf_dir)
    return _from(said.dcp_dir, said.save_dir, said.hf_dir, _inside(names, INNER), {"": form}, {"": ONE_BY_ONE}, False)


def moe_expert(said: take.MoeExpert, _: Arguments) -> Job:
    if said.style not in ("merge", "split"):
        raise JobError(f"--style {said.style}: it is merge or split")
    form, names = _merged(said.hf_dir)
    apart, together = {"experts": {"": ONE_BY_ONE}}, given({"experts": {"": form}, "names": names or None})
    before, after = (apart, together) if said.style == "merge" else (together, apart)
    return {
        "model_type": "tensors",
        "source": {"format": "tensor-files", "path": said.hf_dir, **before},
        "target": {"format": "tensor-files", "path": said.save_dir, "assets_dir": said.hf_dir, **after},
        "options": {"max_shard_size": SHARD},
    }


def lora_hf_to_dcp(said: take.HfToDcp, _: Arguments) -> Job:
    """PEFT's names have `base_model.model.` in front already, and say nothing of the adapter's own."""
    job = _to(said.hf_dir, said.dcp_dir, {PEFT: PEFT + INNER}, {}, {})
    job["target"]["adapter_name"] = ADAPTER
    return job


def merge_lora(names: Mapping[str, str]) -> Callable[[take.MergeLora, Arguments], Job]:
    """Adapters merged into their base; `names`: what a model's training calls what it was published under."""

    def make(said: take.MergeLora, _: Arguments) -> Job:
        saved = {old: STATE + PEFT + INNER + new for old, new in names.items()}
        modules = [name.strip() for name in said.lora_target_modules.split(",") if name.strip()]
        lora = {"path": said.lora_dcp_dir, "scale": said.scaling, "names": saved, "target_modules": modules}
        source = {"format": "huggingface", "path": said.base_hf_dir, "lora": lora}
        target = {"format": "huggingface", "path": said.save_merged_hf_dir, "config_dir": said.base_hf_dir}
        return {"source": source, "target": target, "options": {}}

    return make


def _to(hf_dir: str, dcp_dir: str, names: Mapping[str, str], published: Any, kept: Any, **more: Any) -> Job:
    source = {"format": "tensor-files", "path": hf_dir, "experts": published or None}
    target = {"format": "dcp", "path": dcp_dir, "prefix": STATE, "release": True, "names": names or None, "experts": kept or None, **more}
    return {"model_type": "tensors", "source": given(source), "target": given(target), "options": {}}


def _from(load: str, save: str, like: str, names: Mapping[str, str], kept: Any, published: Any, to_bf16: bool) -> Job:
    source = {"format": "dcp", "path": load, "prefix": STATE, "names": names or None, "experts": kept or None, "like_dir": like}
    target = {"format": "tensor-files", "path": save, "assets_dir": like, "experts": published or None}
    # What training leaves in float32 (A_log, a router's bias) stays so, as the converters have it only with to_bf16.
    options = given({"max_shard_size": SHARD, "dtype": "bf16" if to_bf16 else None, "cast_all": to_bf16 or None})
    return {"model_type": "tensors", "source": given(source), "target": given(target), "options": options}


def _generic(dcp_prefix: str, hf_prefix: str = "") -> dict[str, str]:
    """One prefix in the place of another."""
    return {hf_prefix: dcp_prefix} if dcp_prefix != hf_prefix else {}


def _inside(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {old: prefix + new for old, new in names.items()} or {"": prefix}


def _fused(names: list[str] | None) -> dict[str, str]:
    """`fused_linear_names`: experts as matrices. Raises JobError for others than a layer's two."""
    if not names:
        return {}
    if sorted(names) != ["down_proj", "gate_up_proj"]:
        raise JobError(f"--fused_linear_names {names}: both of a layer's matrices go together", do='say ["gate_up_proj", "down_proj"]')
    return {"": FLAT}


def _tied(said: take.TiedHfToDcp, body: str) -> dict[str, Any]:
    return {"copies": {"lm_head.weight": f"{body}embed_tokens.weight"}} if said.tie_weight else {}


def _merged(hf_dir: str) -> tuple[str, dict[str, str]]:
    """How a model's training keeps merged experts, and what it calls it, by the model_type of its config.json."""
    kind = _config(hf_dir).get("model_type")
    return (STACKED, OMNI) if kind == "qwen3_omni_moe" else (FLAT, {})


def _has_experts(hf_dir: str) -> bool:
    return "moe" in str(_config(hf_dir).get("model_type", ""))


def _config(hf_dir: str) -> Mapping[str, Any]:
    """config.json, which must be here: what is converted how depends on it. Raises JobError."""
    path = os.path.join(hf_dir, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        why = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise JobError(f"{path} cannot be read: {why}", do="give the model's Hugging Face directory") from None
    if not isinstance(said, dict):
        raise JobError(f"{path} is no object")
    return said
