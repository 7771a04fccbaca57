"""What lies in a directory, by the names in it: for the error of somebody who gave the wrong one. Nothing is opened but small JSON.

Only what is not read by the dialect that asks is of interest; so the kinds stand in the order in which one hides another (an adapter
beside a configuration is an adapter; a tracker beside `.distcp` files is no rank files).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from convsvc.errors import ConvsvcError, SourceError
from convsvc.formats.regular_file import open_regular
from convsvc.roots import RootedPath

MAX_JSON_BYTES = 1 << 20
SHOWN = 3
# Files that look like weights, by their names.
WEIGHTS = re.compile(r".*\.(safetensors|bin|pth?|ckpt|gguf|onnx|onnx_data|h5|msgpack|npz|pdparams|nemo|distcp|pkl)")


@dataclass(frozen=True, slots=True)
class Lies:
    """What lies there, in words that follow "is", and what to do about it."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A directory in which, for each of the patterns, something has a name that matches. `name` is short, for tests and `inspect`."""

    name: str
    patterns: tuple[str, ...]
    what: str
    do: str
    detail: Callable[[RootedPath, frozenset[str]], str] | None = None

    def fits(self, names: Iterable[str]) -> bool:
        return all(any(re.fullmatch(pattern, name) for name in names) for pattern in self.patterns)


def recognise(root: RootedPath, but: tuple[str, ...] = ()) -> Lies | None:
    """What lies in a directory, if it is something that has a name; `but` are kinds that the caller reads itself.

    Raises SourceError if the directory cannot be listed; PathRefused.
    """
    kind, names = kind_of(root, but)
    if kind is None:
        return None
    return Lies(kind.what + (kind.detail(root, names) if kind.detail else ""), kind.do.format(root=root))


def kind_of(root: RootedPath, but: tuple[str, ...] = ()) -> tuple[Kind | None, frozenset[str]]:
    """The first kind that fits, and the names in the directory."""
    names = frozenset(root.names())
    return next((kind for kind in KINDS if kind.name not in but and kind.fits(names)), None), names


def refuse(root: RootedPath, expected: str, but: tuple[str, ...] = ()) -> None:
    """Raises SourceError, saying what lies in the directory instead of what was expected; nothing happens if that has no name."""
    lies = recognise(root, but)
    if lies is not None:
        raise SourceError(f"{root} is {lies.what}, not {expected}", do=lies.do)


def describe_adapter(config: Any) -> str:
    """What an adapter_config.json says, in brackets.

    >>> describe_adapter({"peft_type": "LORA", "r": 8, "base_model_name_or_path": "org/base"})
    ' (LORA, r 8, of org/base)'
    """
    if not isinstance(config, dict):
        return ""
    parts = [str(config["peft_type"])[:40]] if config.get("peft_type") else []
    parts += [f"r {config['r']}"] if isinstance(config.get("r"), int) else []
    parts += ["DoRA"] if config.get("use_dora") is True else []
    base = config.get("base_model_name_or_path")
    parts += [f"of {base[:200]}"] if isinstance(base, str) and base else []
    return f" ({', '.join(parts)})" if parts else ""


def _adapter(root: RootedPath, names: frozenset[str]) -> str:
    return describe_adapter(_small_json(root / "adapter_config.json"))


def _backend(root: RootedPath, names: frozenset[str]) -> str:
    """The backend that metadata.json states (megatron/core/dist_checkpointing/core.py, CheckpointingConfig)."""
    config = _small_json(root / "metadata.json")
    backend = config.get("sharded_backend") if isinstance(config, dict) else None
    return f" ({backend[:40]})" if isinstance(backend, str) else ""


def _snapshots(root: RootedPath, names: frozenset[str]) -> str:
    there = (root / "snapshots").names() if (root / "snapshots").is_dir() else []
    return f" with {len(there)} snapshot(s): {', '.join(f'{root}/snapshots/{name}' for name in there[:SHOWN])}" if there else ""


def _first(pattern: str) -> Callable[[RootedPath, frozenset[str]], str]:
    def name(root: RootedPath, names: frozenset[str]) -> str:
        fitting = sorted(each for each in names if re.fullmatch(pattern, each))
        return f" ({', '.join(fitting[:SHOWN])}{' ...' if len(fitting) > SHOWN else ''})"

    return name


def _small_json(path: RootedPath) -> Any:
    """What a small file says; None where it cannot be read: it is only asked for a detail."""
    try:
        with open_regular(path) as file:
            return json.loads(file.read(0, min(file.size_bytes, MAX_JSON_BYTES), "the JSON"))
    except (ConvsvcError, ValueError, RecursionError):
        return None


RANK_FOLDER = r"mp_rank_\d+(_\d+){0,2}"
ITERATION = r"iter_\d+|release"
_TO_SAFETENSORS = "load it with the library that wrote it and save it with transformers' save_pretrained, then give that directory"

KINDS = (
    Kind("hub_cache", ("snapshots", "blobs"), "an entry of a hub cache", "give one of its snapshots as the path", _snapshots),
    Kind(
        "deepspeed",
        (r"zero_to_fp32\.py|.*_optim_states\.pt|global_step\d+|(zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt",),
        "a DeepSpeed checkpoint (ZeRO)",
        "gather its weights first: `python zero_to_fp32.py {root} OUTPUT --safe_serialization` (the script lies in it), and give OUTPUT",
    ),
    Kind(
        "torch_dist",
        (r"metadata\.json", r"\.metadata|.*\.distcp|common\.pt"),
        "a Megatron distributed checkpoint",
        'give it as one: source.format "megatron"',
        _backend,
    ),
    Kind(
        "dcp",
        (r"\.metadata|.*\.distcp",),
        "a torch distributed checkpoint (DCP: .metadata and .distcp files)",
        'give it as one: source.format "dcp"',
    ),
    Kind(
        "fsdp",
        (r"pytorch_model_fsdp(_\d+|\.bin)",),
        "an FSDP checkpoint of accelerate",
        'of sharded state dicts (a directory pytorch_model_fsdp_0), give that as source.format "dcp"; pytorch_model_fsdp.bin is one '
        "state dict: load it into the model and save that with transformers' save_pretrained",
    ),
    Kind(
        "mindformers",
        (r"iteration_\d+|param_name_map\.json|unified_safe|rank_\d+|(.*-)?(model|opt)-\d{7}-\d{7}\.safetensors",),
        "a checkpoint of MindSpore Transformers",
        'give it as one: source.format "mindformers"',
    ),
    Kind(
        "rank_files",
        (rf"{RANK_FOLDER}|{ITERATION}|latest_checkpointed_iteration\.txt",),
        "a Megatron checkpoint",
        'give it as rank files: source.format "mindspeed-llm", "megatron" with source.storage "torch"; '
        'multimodal models\' "mindspeed-mm" or "mindspeed-mm-sora"',
        _first(rf"{RANK_FOLDER}|{ITERATION}|latest_checkpointed_iteration\.txt"),
    ),
    Kind(
        "rank_folder",
        (r"model_optim_rng\.pt|distrib_optim\.pt|model_rng\.pt",),
        "one rank's directory of a Megatron checkpoint",
        "give the directory that training saved to, which holds all ranks",
    ),
    Kind(
        "adapter",
        (r"adapter_config\.json|adapter_model(-.*)?\.(safetensors|bin)",),
        "a PEFT adapter",
        'give it as one, with its base model: source.format "peft", source.base_path',
        _adapter,
    ),
    Kind(
        "hugging_face",
        (r"config\.json", r"(model|pytorch_model)(-.*)?\.(safetensors|bin)(\.index\.json)?"),
        "a Hugging Face checkpoint",
        'give it as one: source.format "huggingface"',
    ),
    Kind(
        "gguf",
        (r".*\.gguf",),
        "a GGUF model of llama.cpp",
        "give the checkpoint it was made from; transformers can load a GGUF (gguf_file=) and save it as safetensors, dequantised",
        _first(r".*\.gguf"),
    ),
    Kind(
        "diffusers", (r"model_index\.json",), "a pipeline of diffusers", 'give its transformer\'s directory, as source.format "diffusers"'
    ),
    Kind(
        "original",
        (r"consolidated.*\.(pth|safetensors)",),
        "a checkpoint in Meta's or Mistral's own format",
        "give the Hugging Face form of it (transformers has convert_llama_weights_to_hf.py and convert_mistral_weights_to_hf.py)",
        _first(r"consolidated.*\.(pth|safetensors)"),
    ),
    Kind("onnx", (r".*\.onnx(_data)?",), "an ONNX model", "give the checkpoint it was exported from", _first(r".*\.onnx(_data)?")),
    Kind(
        "tensorflow",
        (r".*\.h5|.*\.ckpt\.index|saved_model\.pb",),
        "a TensorFlow checkpoint",
        _TO_SAFETENSORS,
        _first(r".*\.h5|.*\.ckpt\.index|saved_model\.pb"),
    ),
    Kind("flax", (r"flax_model.*\.msgpack(\.index\.json)?",), "a Flax checkpoint", _TO_SAFETENSORS),
    Kind("orbax", (r"_CHECKPOINT_METADATA|ocdbt\.process_.*|manifest\.ocdbt",), "a JAX (Orbax) checkpoint", _TO_SAFETENSORS),
    Kind("mlx", (r"weights.*\.npz",), "an MLX checkpoint (npz)", _TO_SAFETENSORS),
    Kind("nemo", (r".*\.nemo",), "a NeMo archive", "export it to Hugging Face with NeMo or Megatron-Bridge"),
    Kind("nemo2", ("weights", "context"), "a NeMo 2 checkpoint", "export it to Hugging Face with NeMo or Megatron-Bridge"),
    Kind("tensorrt", (r"rank\d+\.(safetensors|engine)",), "a TensorRT-LLM checkpoint", "give the checkpoint it was built from"),
    Kind("openvino", (r"openvino.*\.xml",), "an OpenVINO model", "give the checkpoint it was exported from"),
    Kind("paddle", (r".*\.pdparams",), "a PaddlePaddle checkpoint", _TO_SAFETENSORS),
    Kind("mindspore", (r".*\.ckpt",), "a checkpoint of MindSpore or Lightning (.ckpt)", _TO_SAFETENSORS, _first(r".*\.ckpt")),
    Kind(
        "pickles",
        (r".*\.(pth?|pkl|pickle|joblib)",),
        "a directory of PyTorch or pickle files under names of their own",
        "save the model with transformers' save_pretrained and give that directory; no pickle is run here",
        _first(r".*\.(pth?|pkl|pickle|joblib)"),
    ),
    Kind(
        "checkpoints",
        (r"checkpoint-\d+",),
        "a directory of trainer checkpoints",
        "give one of them",
        _first(r"checkpoint-\d+"),
    ),
    Kind(
        "named_otherwise",
        (r".*\.(safetensors|bin)",),
        "a directory whose weights have other names",
        "transformers reads model.safetensors, or the files that model.safetensors.index.json names: rename the file, or write the index",
        _first(r".*\.(safetensors|bin)"),
    ),
)
