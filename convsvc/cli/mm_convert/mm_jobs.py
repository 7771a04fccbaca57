"""Jobs with Megatron-style rank files of MindSpeed-MM: its configuration's fields are the formats' own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from convsvc.cli.drop_in import given
from convsvc.cli.mm_convert import configs as take
from convsvc.errors import ConvsvcError, JobError

RANKS, HUGGING_FACE = "mindspeed-mm", "huggingface"
# Adapters by themselves are a model of their own, whose sizes its tensors show: read and written as diffusion models are.
ADAPTERS, ADAPTED_RANKS, PUBLISHED = "qwen2.5-vl-lora", "mindspeed-mm-sora", "diffusers"
Job = dict[str, Any]
Make = Callable[[Any, Mapping[str, Any]], Job]

# The families of a converter's models, by letters and digits alone: patterns.
FAMILIES = {
    "Qwen2VLConverter": "qwen2vl", "Qwen2_5_VLConverter": "qwen25vl", "InternVLConverter": "internvl.*",
    "Qwen2_5_OmniConverter": "qwen25omni", "Qwen3VLMegatronConverter": "qwen3vl(moe)?", "GlmConverter": "glm41?v.*",
    "DeepSeekVLConverter": "deepseekvl.*", "VideoAlignConverter": "videoalign", "WanConverter": "wan", "VACEConverter": "vace",
    "HunyuanVideoConverter": "hunyuanvideo.*", "OpenSoraPlanConverter": "opensoraplan.*", "CogVideoConverter": "cogvideo.*",
    "LuminaConverter": "lumina.*", "BagelConverter": "bagel", "StepVideoConverter": "stepvideo", "OpenSoraConverter": "opensora",
}  # fmt: skip
STATED = {
    "llm_num_layers": ("text_config", ("num_hidden_layers",)),
    "num_key_value_heads": ("text_config", ("num_key_value_heads",)),
    "num_experts": ("text_config", ("num_experts", "n_routed_experts", "num_local_experts")),
    "tie_word_embeddings": ("text_config", ("tie_word_embeddings",)),
    "vit_num_layers": ("vision_config", ("depth", "num_hidden_layers")),
    "audio_num_layers": ("audio_config", ("encoder_layers", "num_hidden_layers")),
}


def hf_to_mm(converter: str, ldt: bool = False) -> Make:
    def make(said: take.HfToMm, _: Mapping[str, Any]) -> Job:
        common = said.common_model_config
        check_stated(common, said.hf_config.hf_dir)
        target = {
            "format": RANKS,
            "path": said.mm_dir,
            **_cut(said.parallel_config, nested=True),
            "enable_canonical_hf_struct": common.enable_canonical_hf_struct or None,
            "resize_vocab_size": common.resize_vocab_size,
            "save_vit_only": said.save_vit_only or None,
            "ldt": ldt or None,
        }
        source = {
            "format": HUGGING_FACE,
            "path": said.hf_config.hf_dir,
            "weights_path": said.pt_path,
            "text_decoder_dir": common.llm_hf_dir,
            "own_head": True,
        }
        # Whoever asks for fewer rows is told what is left out.
        on_loss = None if common.resize_vocab_size is None else "note"
        return _job(family_of(converter, hf_dir=said.hf_config.hf_dir), source, target, on_loss)

    return make


def mm_to_hf(converter: str) -> Make:
    def make(said: take.MmToHf, _: Mapping[str, Any]) -> Job:
        check_stated(said.common_model_config, said.hf_config.hf_dir)
        source = {
            "format": RANKS,
            "path": said.mm_dir,
            **_cut(said.parallel_config, nested=False),
            "enable_canonical_hf_struct": said.common_model_config.enable_canonical_hf_struct or None,
            "config_dir": said.hf_config.hf_dir,
            "like_dir": said.hf_config.hf_dir,
        }
        target = {"format": HUGGING_FACE, "path": said.save_hf_dir, "config_dir": said.hf_config.hf_dir}
        return _job(family_of(converter, hf_dir=said.hf_config.hf_dir), source, target)

    return make


def lora_hf_to_mm(said: take.LoraHfToMm, _: Mapping[str, Any]) -> Job:
    """Adapters alone; how many layers there are their names show."""
    _check_canonical(said.common_model_config)
    source = {"format": PUBLISHED, "path": said.hf_config.hf_dir}
    return _job(ADAPTERS, source, {"format": ADAPTED_RANKS, "path": said.mm_dir, **_adapters_cut(said.parallel_config, nested=True)})


def lora_mm_to_hf(said: take.LoraMmToHf, _: Mapping[str, Any]) -> Job:
    common = said.common_model_config
    _check_canonical(common)
    source = {"format": ADAPTED_RANKS, "path": said.mm_dir, **_adapters_cut(said.parallel_config, nested=False)}
    form = "language_model" if common.new_transformers_weight_key else None
    return _job(ADAPTERS, source, {"format": PUBLISHED, "path": said.save_hf_dir, "before_names": common.model_prefix, "form": form})


def _check_canonical(common: take.Model) -> None:
    if not common.enable_canonical_hf_struct:
        raise JobError(
            "adapters in rank files are of Hugging Face's parts: what is fused has none of its own",
            do="say --cfg.common_model_config.enable_canonical_hf_struct true, as training must have it, too",
        )


def _adapters_cut(said: take.Parallel, nested: bool) -> dict[str, Any]:
    """Raises JobError for what is not cut so for adapters."""
    cut = _cut(said, nested)
    others = [name for name in ("vit_tp_size", "audio_tp_size") if cut[name] not in (None, said.tp_size)]
    others += [name for name in ("audio_pp_layers", "ep_size") if cut[name] is not None]
    if others:
        raise JobError(f"{', '.join(others)}: adapters are cut over tp_size ranks and the stages of two lists", do="leave them out")
    return {"tp_size": said.tp_size, "pp_layers": _flat(cut["llm_pp_layers"]), "vit_pp_layers": _flat(cut["vit_pp_layers"])}


def _flat(layers: list[Any] | None) -> list[Any] | None:
    """One list in a list is its one chunk, which has no number."""
    return layers[0] if layers and len(layers) == 1 and isinstance(layers[0], list) else layers


def resplit(converter: str) -> Make:
    def make(said: take.Resplit, _: Mapping[str, Any]) -> Job:
        from convsvc.dialects.mindspeed_mm.seen_facts import WIDTHS

        config_dir = said.hf_config.hf_dir if said.hf_config else None
        names = families_of(converter)
        # Names and shapes show all else of these models that a cut follows.
        if config_dir is None and not (len(names) == 1 and names[0] in WIDTHS):
            raise JobError(
                "rank files say neither how many heads the model has nor which module's layers are which",
                do="give the model's Hugging Face directory: --cfg.hf_config.hf_dir DIR",
            )
        canonical = said.common_model_config.enable_canonical_hf_struct or None
        source = {
            "format": RANKS,
            "path": said.source_dir,
            **_cut(said.source_parallel_config, nested=False),
            "enable_canonical_hf_struct": canonical,
            "config_dir": config_dir,
            "like_dir": config_dir,  # a head of its own in a tied model stays one, as on the way there and back
        }
        target = {
            "format": RANKS,
            "path": said.target_dir,
            **_cut(said.target_parallel_config, nested=False),
            "enable_canonical_hf_struct": canonical,
            "iteration": "release",  # wherever training has come to
        }
        return _job(family_of(converter, hf_dir=config_dir), source, target)

    return make


def _job(family: str | None, source: Mapping[str, Any], target: Mapping[str, Any], on_loss: str | None = None) -> Job:
    options = given({"on_loss": on_loss})
    return given({"model_type": family, "source": given(dict(source)), "target": given(dict(target)), "options": options})


def family_of(converter: str, version: str | None = None, hf_dir: str | None = None) -> str | None:
    """The converter's family: the one there is, or that of the version, or that a configuration shows; None where it is to be detected.

    Raises JobError where there is none, or the configuration is another model's.
    """
    names = families_of(converter)
    if not names:
        raise JobError(
            f"{converter}: rank files of this model are not converted yet",
            do="use MindSpeed-MM's own mm-convert; or GenericDCPConverter, where it is trained from torch distributed checkpoints",
        )
    if len(names) > 1 and version is not None:
        names = [name for name in names if _plain(name).endswith(_plain(version))] or names
    shown = _shown(converter, names, hf_dir)
    return names[0] if len(names) == 1 else shown


def families_of(converter: str) -> list[str]:
    """The families of a converter's models."""
    from convsvc.families import FAMILIES as KNOWN

    return [name for name in KNOWN if re.fullmatch(FAMILIES[converter], _plain(name))]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shown(converter: str, names: list[str], hf_dir: str | None) -> str | None:
    from convsvc.families import FAMILIES as KNOWN
    from convsvc.families import find_family
    from convsvc.models.facts import Facts

    path = os.path.join(hf_dir, "config.json") if hf_dir else ""
    config = _read(path)
    if config is None:
        return None
    try:
        family = find_family(None, Facts(config, path)).name
    except ConvsvcError:
        # Whose it is does not show: the one family that there is says what is wrong with it.
        if len(names) == 1:
            return names[0]
        raise
    kinds = {kind for name in names for kind in KNOWN[name].model_types}
    if family not in names and (len(names) > 1 or config.get("model_type") not in kinds):
        raise JobError(f"{converter}: {path} is the configuration of a {family} model", do=f"it converts {', '.join(names)}")
    return family


def _read(path: str) -> dict[str, Any] | None:
    """A configuration, where there is one that can be read; reading it as a source says what is wrong with another."""
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        try:
            config = json.load(file)
        except (ValueError, RecursionError):
            return None
    return config if isinstance(config, dict) else None


def _cut(said: take.Parallel, nested: bool) -> dict[str, Any]:
    """The layout's fields. Raises JobError for a list of one number in another depth than the command's own.

    MindSpeed-MM takes lists of lists on the way to rank files (`nested`), and plain ones on the way back and between rank files; both are
    taken here wherever they say which stage has what. One number alone in the other depth is as likely the number of all layers, or a list
    that lost its stages.
    """
    for name in ("llm_pp_layers", "vit_pp_layers", "audio_pp_layers"):
        layers = getattr(said, name) or []
        if len(layers) != 1 or isinstance(layers[0], list) == nested or (isinstance(layers[0], list) and len(layers[0]) > 1):
            continue
        one = [layers] if nested else layers[0]
        raise JobError(
            f"{name} is {layers}: one number names no stages",
            do=f"write {one} for one stage with all of them, or a number for each stage",
        )
    return {
        "llm_pp_layers": said.llm_pp_layers,
        "vit_pp_layers": said.vit_pp_layers,
        "audio_pp_layers": said.audio_pp_layers,
        "tp_size": said.tp_size,
        "vit_tp_size": said.vit_tp_size or None,
        "audio_tp_size": said.audio_tp_size or None,
        "ep_size": said.ep_size if said.ep_size > 1 else None,
    }


def check_stated(common: take.Model, hf_dir: str) -> None:
    """Raises JobError for numbers that config.json says otherwise. One that is not here (on the service's side) is not looked at."""
    path = os.path.join(hf_dir, "config.json")
    stated = {name: getattr(common, name) for name in STATED if getattr(common, name) is not None}
    config = _read(path) if stated else None
    if config is None:
        return
    faults = [
        f"--cfg.common_model_config.{name} is {value}, {path} says {there}"
        for name, value in stated.items()
        if (there := _said(config, name)) not in (None, value)
    ]
    if faults:
        raise JobError("; ".join(faults), do="leave them out: they are read from there")


def _said(config: Any, name: str) -> Any:
    """What a configuration says of a number of ours, in the module's part or at the top."""
    part, fields = STATED[name]
    places = [each for each in (config.get(part) if isinstance(config, dict) else None, config) if isinstance(each, dict)]
    if part != "text_config":
        places = places[:1] if part in config else []
    return next((place[field] for place in places for field in fields if field in place), None)
