"""Small checkpoints, jobs between them, and what a plain conversion makes of each: the digests that everything is held against."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import convsvc

HIDDEN, FFN, VOCAB = 512, 2048, 512
LAYOUTS: tuple[dict[str, int], ...] = (
    {"tensor_parallel_size": 1, "pipeline_parallel_size": 1},
    {"tensor_parallel_size": 2, "pipeline_parallel_size": 1},
    {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    {"tensor_parallel_size": 1, "pipeline_parallel_size": 4},
)


@dataclass(frozen=True, slots=True)
class Case:
    """A job without its target, and the digests of the files that it must give."""

    name: str
    source: dict[str, Any]
    target: dict[str, Any]
    verify: str
    digests: dict[str, str]

    def job(self, target: Path, **options: Any) -> dict[str, Any]:
        more = {"verify": self.verify, **options}
        return {"name": self.name, "source": self.source, "target": {**self.target, "path": str(target)}, "options": more}

    def check(self, target: Path) -> int:
        """The number of files, all of them right to the bit."""
        assert digests_of(target) == self.digests, f"{target} is not what a plain conversion gives"
        return len(self.digests)


def make_llama(folder: Path, *, layers: int = 8, seed: int = 0, hidden: int = HIDDEN, ffn: int = FFN) -> Path:
    """A Llama in the Hugging Face layout, in two files, with random weights; about 8 MB a layer."""
    folder.mkdir(parents=True)
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": VOCAB}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, hidden), "lm_head": (VOCAB, hidden), "model.norm": (hidden,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj": (hidden if name in "qo" else hidden // 2, hidden) for name in "qkvo"}
        shapes |= {
            f"{prefix}.mlp.gate_proj": (ffn, hidden),
            f"{prefix}.mlp.up_proj": (ffn, hidden),
            f"{prefix}.mlp.down_proj": (hidden, ffn),
        }
        shapes |= {f"{prefix}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
    made = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(shape, generator=made).bfloat16() for name, shape in shapes.items()}
    names = sorted(tensors)
    half, parts = len(names) // 2, {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        parts |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    return folder


def make_cases(folder: Path, *, layers: int = 8) -> list[Case]:
    """HF to mcore in every layout, and each of them back; alternately verified by digest and by a round trip."""
    cases = []
    huggingface = make_llama(folder / "hf", layers=layers)
    for number, layout in enumerate(LAYOUTS):
        source = {"format": "huggingface", "path": str(huggingface)}
        there = _case(folder, f"to-{number}", source, {"format": "mindspeed-llm", **layout}, "digest" if number % 2 else "roundtrip")
        back = {"format": "huggingface", "config_dir": str(huggingface)}
        mcore = {"format": "mindspeed-llm", "path": str(folder / there.name)}
        cases += [there, _case(folder, f"from-{number}", mcore, back, "roundtrip" if number % 2 else "digest")]
    return cases


def make_case(folder: Path, *, layers: int) -> Case:
    """Only HF to mcore in two parts, verified by digest."""
    source = {"format": "huggingface", "path": str(make_llama(folder / "hf", layers=layers))}
    return _case(folder, "there", source, {"format": "mindspeed-llm", **LAYOUTS[1]}, "digest")


def _case(folder: Path, name: str, source: dict[str, Any], target: dict[str, Any], verify: str) -> Case:
    plain = Case(name, source, target, verify, {})
    convsvc.convert(plain.job(folder / name), engine="inline")
    return Case(name, source, target, verify, digests_of(folder / name))


# Two runs that make the same have lists and reports of their own.
OF_THE_RUN = (".convsvc-made.json", "conversion-report.json")


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by its path in the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_THE_RUN]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def left_beside(folder: Path) -> list[str]:
    """What is hidden in a folder of targets: staging directories, locks, old targets."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
