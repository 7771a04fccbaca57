"""A PEFT adapter directory beside its base model: adapter_config.json and its weights (peft/tuners/lora/config.py, peft 0.21)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from convsvc.dialects.checkpoint import AdapterFacts, Checkpoint, Found, SourceFile
from convsvc.dialects.files import index_file
from convsvc.dialects.json_files import read_json
from convsvc.dialects.peft.adapter_files import CONFIG, WEIGHTS
from convsvc.errors import SourceError
from convsvc.formats.base import StoredTensor
from convsvc.models.facts import Facts, shown
from convsvc.notes import Note
from convsvc.roots import RootedPath

BIN = "adapter_model.bin"
# Fields that make an adapter something else than W + scale * B A, where they are set.
OTHER_KINDS = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias (a bias in B)",
    "fan_in_fan_out": "fan_in_fan_out (weights stored the other way round)",
    "target_parameters": "target_parameters (adapters on parameters that no module has for itself, as fused experts)",
    "trainable_token_indices": "trainable tokens",
    "layer_replication": "layer_replication (layers that the base does not have)",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA (used from a token on, so that it cannot be merged)",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow (chosen token by token)",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# Fields that say how it was trained, or are read elsewhere: whatever they hold, the product is the same.
OF_TRAINING = frozenset({
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "r",
    "lora_alpha", "lora_dropout", "use_rslora", "bias", "target_modules", "exclude_modules", "modules_to_save", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
})  # fmt: skip
# These begin with B = 0 and leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take a part out of it first.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
PREFIX, MODULES_TO_SAVE, BASE_LAYER = "base_model.model.", ".modules_to_save.", ".base_layer."
# A pattern of rank_pattern: names, dots, a few wildcards. Others could take longer than anybody waits.
SIMPLE = re.compile(r"(?:[\w\-.^$|]|\\[.d]|\[[\w\-]+\]|\((?:\?:)?[\w\-.|\\]+\)(?![*+?{]))*")
SIMPLE_WILDCARDS = re.compile(r"(?:\.|\\d|\])[*+]")


def check_adapter(root: RootedPath, field: str) -> None:
    """Raises SourceError, naming the job's field, for what is no PEFT directory."""
    if not root.is_dir() or not (root / CONFIG).is_file():
        what = f"has no {CONFIG}: it is no PEFT adapter" if root.is_dir() else "is not a directory"
        do = f"give the directory that peft saved the adapter to, with {CONFIG} and {WEIGHTS}"
        raise SourceError(f"{field}: {root} {what}", do=do)


def with_adapter(base: Checkpoint, root: RootedPath, field: str = "source.lora.path") -> Checkpoint:
    """The base with the adapters' tensors beside its own, under plain names; what was trained whole takes the place of the base's.

    Raises SourceError for what is no LoRA adapter of this base.
    """
    facts, file, stored = _read(root, field)
    tensors = {_plain(tensor.name): Found(len(base.files), tensor) for tensor in stored}
    whole = [name for name in tensors if ".lora_" not in name]
    _check_whole(base, tensors, whole, root)
    notes = [_note(whole)] if whole else []
    found = {**base.found, **{("", name): found for name, found in tensors.items()}}
    return replace(base, files=(*base.files, file), found=found, lora=facts, notes=(*base.notes, *notes))


def adapter_alone(root: RootedPath, field: str = "source.path") -> Checkpoint:
    """The adapters' tensors under the names that they are stored by, without any base. Raises SourceError for what is no LoRA adapter."""
    facts, file, stored = _read(root, field)
    found = {("", tensor.name): Found(0, tensor) for tensor in stored}
    return Checkpoint(str(root), (file,), found, Facts({}, facts.origin), lora=facts)


def _read(root: RootedPath, field: str) -> tuple[AdapterFacts, SourceFile, tuple[StoredTensor, ...]]:
    check_adapter(root, field)
    facts = facts_of(read_json(root / CONFIG), str(root / CONFIG))
    index, file = index_file(_weights(root, field))
    return facts, file, index.tensors


def facts_of(config: Mapping[str, Any], origin: str) -> AdapterFacts:
    """What adapter_config.json says. Raises SourceError for another kind of adapter, naming it."""
    kind = config.get("peft_type", "LORA")
    others = [words for name, words in OTHER_KINDS.items() if config.get(name)]
    if kind != "LORA":
        others = [f"peft_type {shown(kind)}"]
    beginning = config.get("init_lora_weights", True)
    if beginning not in PLAIN_BEGINNINGS:
        others.append(f"init_lora_weights {shown(beginning)} (it begins with a part of the base's weights, which it takes out of them)")
    unknown = sorted(name for name, value in config.items() if value and name not in OF_TRAINING and name not in OTHER_KINDS)
    others += [f"the field {name}, which is not known here" for name in unknown]
    if others:
        raise SourceError(
            f"{origin}: this adapter is not plain LoRA: {'; '.join(others)}",
            do="merge it with peft (merge_and_unload), and convert the result",
        )
    return AdapterFacts(
        origin,
        _whole_number(config, "r", origin),
        _positive(config.get("lora_alpha"), "lora_alpha", origin),
        bool(config.get("use_rslora")),
        _pattern(config, "rank_pattern", origin),
        _pattern(config, "alpha_pattern", origin),
    )


def _weights(root: RootedPath, field: str) -> RootedPath:
    for name in (WEIGHTS, BIN):
        if (root / name).exists():
            return root / name
    raise SourceError(f"{field}: {root} has neither {WEIGHTS} nor {BIN}", do="fetch the adapter again")


def _plain(name: str) -> str:
    """The name in the base of a tensor that is no side of an adapter; those keep their ending."""
    name = name.removeprefix(PREFIX)
    if MODULES_TO_SAVE in name:
        module, _, rest = name.partition(MODULES_TO_SAVE)
        return f"{module}.{rest.rpartition('.')[2]}"
    return name.replace(BASE_LAYER, ".")


def _check_whole(base: Checkpoint, tensors: Mapping[str, Found], whole: Iterable[str], root: RootedPath) -> None:
    faults = [f"{name} {list(tensors[name].tensor.shape)}: the base has no such tensor" for name in whole if ("", name) not in base.found]
    for name in whole:
        there = base.found.get(("", name))
        if there is not None and there.tensor.shape != tensors[name].tensor.shape:
            faults.append(f"{name}: expected {list(there.tensor.shape)}, found {list(tensors[name].tensor.shape)}")
    if faults:
        raise SourceError(
            f"{root} holds {len(faults)} tensor(s) that were trained whole and do not fit the base {base.path}",
            facts=faults[:12],
            do="state the base it was trained on; where training has resized the vocabulary or untied the head, merge it with peft",
        )


def _note(whole: list[str]) -> Note:
    shown_names = ", ".join(whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
    return Note(
        "changed", f"{len(whole)} tensor(s) that were trained whole (modules_to_save, bias) take the place of the base's: {shown_names}"
    )


def _whole_number(config: Mapping[str, Any], name: str, origin: str) -> int | None:
    value = _positive(config.get(name), name, origin)
    if value is not None and value != int(value):
        raise SourceError(f"{origin}: {name} is {shown(value)}; it must be a whole number from 1 on")
    return None if value is None else int(value)


def _positive(value: Any, name: str, origin: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise SourceError(f"{origin}: {name} is {shown(value)}; it must be a number above 0")
    return value


def _pattern(config: Mapping[str, Any], name: str, origin: str) -> Mapping[str, float]:
    pattern = config.get(name) or {}
    if not isinstance(pattern, dict):
        raise SourceError(f"{origin}: {name} is {shown(pattern)}; it must map names of modules to numbers")
    for key, value in pattern.items():
        _positive(value, f"{name}[{key!r}]", origin)
        plain = SIMPLE_WILDCARDS.sub(lambda match: match[0][:-1], key)
        if len(key) > 200 or len(SIMPLE_WILDCARDS.findall(key)) > 2 or not SIMPLE.fullmatch(plain):
            raise SourceError(f"{origin}: {name} holds {shown(key)}, which is more than a module's name with a wildcard or two")
    return pattern
