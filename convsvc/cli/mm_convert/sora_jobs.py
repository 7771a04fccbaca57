"""Jobs with diffusion models: MindSpeed-MM's converters of them in our formats' words."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any, cast

from convsvc.cli.drop_in import given
from convsvc.cli.mm_convert import configs as take
from convsvc.dialects.output import BESIDE as BESIDE_TARGET
from convsvc.errors import JobError

SORA, PUBLISHED, DCP = "mindspeed-mm-sora", "diffusers", "dcp"
# How MindSpeed-MM saves torch distributed checkpoints: {"model": weights}, in `release`, here by rank files' names.
STATE: Mapping[str, Any] = {"prefix": "model.", "release": True, "form": "mindspeed-mm"}
# From rank files to rank files, too, the source tool writes `release`, wherever training has come to.
BEGINS: Mapping[str, Any] = {"iteration": "release"}
Job = dict[str, Any]
Make = Callable[[Any, Mapping[str, Any]], Job]

# What a converter's models are called here; where there are versions, by these.
MODELS: Mapping[str, str | Mapping[str, str]] = {
    "WanConverter": "wan",
    "VACEConverter": "vace",
    "HunyuanVideoConverter": "hunyuan-video",
    "OpenSoraPlanConverter": {"v1.2": "opensora-plan-v1.2", "v1.3": "opensora-plan-v1.3", "v1.5": "opensora-plan-v1.5"},
    "CogVideoConverter": "cogvideo",
    "LuminaConverter": "lumina",
    "BagelConverter": "bagel",
    "StepVideoConverter": "stepvideo",
    "OpenSoraConverter": "opensora",
}
TO_RANKS = ("hf_to_mm", "source_to_mm", "hf_diffusers_to_mm", "lora_hf_to_mm")
# The form that a command writes, where it is not the first that the model has; and the commands that write one torch file.
FORMS = {("VACEConverter", "mm_to_hf"): "original", ("VACEConverter", "mm_to_hf_diffusers"): "hf_diffusers"}
# Where a job that makes one file does so, before it is put in its place; and the file there.
BESIDE, FILE = ".converted", "model.pt"


def sora(converter: str, command: str) -> Make:
    """What makes the job of a converter's command."""

    def make(said: take.Sora, own: Mapping[str, Any]) -> Job:
        model = "wan-lora" if command == "lora_hf_to_mm" else model_of(converter, own.get("version"))
        cut = said.target_parallel_config
        _check_version(converter, own.get("version"), cut.tp_size)
        ranks = {"format": SORA, "path": said.source_path}
        new = {"format": SORA, "path": said.target_path, "tp_size": cut.tp_size, "pp_layers": cut.pp_layers or None}
        if command in TO_RANKS:
            positions = True if str(own.get("remove_pos_emb")).lower() == "true" else None
            return _job(model, {"format": PUBLISHED, "path": said.source_path, "remove_pos_emb": positions}, new)
        if command == "resplit":
            return _job(model, ranks, {**new, **BEGINS})
        if command == "mm_to_dcp":
            # Adapters too: which of the two it is, names show.
            return _job(None, {**ranks, "config_dir": said.hf_dir}, {"format": DCP, "path": said.target_path, **STATE})
        if command == "merge_lora_to_base":
            return _job(model, {**ranks, "lora": _lora(cast("take.MergeSora", said), own)}, {**new, **BEGINS})
        return _job(model, {**ranks, "config_dir": said.hf_dir}, _published(converter, command, said))

    return make


def _lora(said: take.MergeSora, own: Mapping[str, Any]) -> Job:
    """Raises JobError for numbers that are none from 1 on."""
    numbers = {name: own[name] for name in ("lora_rank", "lora_alpha")}
    wrong = [f"--{name} is {value}; it must be 1 or more" for name, value in numbers.items() if value < 1]
    if wrong:
        raise JobError("; ".join(wrong))
    return {"path": said.lora_path, "r": numbers["lora_rank"], "alpha": numbers["lora_alpha"]}


def _published(converter: str, command: str, said: take.Sora) -> Job:
    form = FORMS.get((converter, command))
    if form is None:
        return {"format": PUBLISHED, "path": said.target_path, "config_dir": said.hf_dir}
    return {"format": PUBLISHED, "path": said.target_path + BESIDE, "form": form, "file_name": FILE, "config_dir": said.hf_dir}


def model_of(converter: str, version: Any) -> str | None:
    """The model's name here; None where its tensors shall show which version it is. Raises JobError for a version that is not known."""
    models = MODELS[converter]
    if isinstance(models, str):
        return models
    if version is not None and version not in models:
        raise JobError(f"{converter}: version {version} is not converted", do=f"there are {', '.join(models)}")
    return models.get(version) if version is not None else None


def _check_version(converter: str, version: Any, tp_size: int) -> None:
    if converter == "HunyuanVideoConverter" and version == "i2v" and tp_size > 1:
        raise JobError(f"{converter}: tp_size is {tp_size}; version i2v is not cut over ranks", do="use 1")


def _job(model: str | None, source: Mapping[str, Any], target: Mapping[str, Any]) -> Job:
    return given({"model_type": model, "source": given(dict(source)), "target": given(dict(target)), "options": {}})


def file_of(job: Mapping[str, Any]) -> str | None:
    """The one file that a job is to leave, by its path; None for a job that leaves a directory."""
    target = job["target"]
    path = str(target["path"])
    return path.removesuffix(BESIDE) if target.get("file_name") == FILE and path.endswith(BESIDE) else None


def check_place(job: Mapping[str, Any]) -> None:
    """Raises JobError where there is something already in the place of the one file."""
    path = file_of(job)
    if path is not None and os.path.lexists(path):
        raise JobError(f"{path} exists", do="give a path that does not, or move it away")


def for_service(job: Job) -> Job:
    """The job as it is submitted: nobody moves its one file afterwards, so it stays in a directory of the name that was given."""
    path = file_of(job)
    return job if path is None else {**job, "target": {**job["target"], "path": path}}


def put_in_place(job: Mapping[str, Any]) -> None:
    """The one file of a job that is done, in its place, with the report beside it."""
    path = file_of(job)
    if path is None:
        return
    folder = path + BESIDE
    os.replace(os.path.join(folder, FILE), path)
    for name in BESIDE_TARGET:  # where a drop-in command leaves them: beside the result
        if os.path.isfile(f"{folder}.{name}"):
            os.replace(f"{folder}.{name}", f"{path}.{name}")
    shutil.rmtree(folder)
