"""A tenant's directory, another root, and what lies outside of both: a checkpoint, a file, a directory, all of them marked.

What is outside bears marks: its tensors hold nothing but one bit pattern, its texts one word. Neither may ever be in what a job writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from convsvc.conversion import convert
from convsvc.roots import Roots

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": False,
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
}  # fmt: skip
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
RANK_FILE = "iter_0000001/mp_rank_00/model_optim_rng.pt"
TRACKER = "latest_checkpointed_iteration.txt"
MARK = b"\xc7\x5e" * 32
WORD = b"marked-as-outside"
SHAPES = {
    "model.embed_tokens": (64, 16), "lm_head": (64, 16), "model.norm": (16,),
    "model.layers.0.input_layernorm": (16,), "model.layers.0.post_attention_layernorm": (16,),
    "model.layers.0.self_attn.q_proj": (16, 16), "model.layers.0.self_attn.k_proj": (8, 16),
    "model.layers.0.self_attn.v_proj": (8, 16), "model.layers.0.self_attn.o_proj": (16, 16),
    "model.layers.0.mlp.gate_proj": (32, 16), "model.layers.0.mlp.up_proj": (32, 16), "model.layers.0.mlp.down_proj": (16, 32),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """`tenant` and `shared` are roots, `outside` is not. Jobs are dicts; what is not stated is the tenant's own."""

    base: Path

    @property
    def tenant(self) -> Path:
        return self.base / "tenant"

    @property
    def shared(self) -> Path:
        return self.base / "shared"

    @property
    def outside(self) -> Path:
        return self.base / "outside"

    @property
    def roots(self) -> Roots:
        return Roots((str(self.tenant), str(self.shared)))

    def to_mcore(self, source: Path | str = "", target: Path | str = "", **options: Any) -> dict[str, Any]:
        return {
            "source": {"format": "huggingface", "path": str(source or self.tenant / "hf")},
            "target": {"format": "mindspeed-llm", "path": str(target or self.tenant / "out"), "tensor_parallel_size": 2},
            "options": options,
        }

    def to_hf(self, source: Path | str = "", target: Path | str = "", config_dir: Path | str = "") -> dict[str, Any]:
        return {
            "source": {"format": "mindspeed-llm", "path": str(source or self.tenant / "mcore")},
            "target": {
                "format": "huggingface",
                "path": str(target or self.tenant / "out"),
                "config_dir": str(config_dir or self.tenant / "hf"),
            },
        }

    def seen_outside(self) -> dict[str, tuple[Any, ...]]:
        """Everything about the outside that a job could change."""
        return {str(path): _state(path) for path in [self.outside, *sorted(self.outside.rglob("*"))]}

    def marked(self) -> list[str]:
        """Files of the roots with something in them that came from outside; links and what is linked hard from there do not count."""
        return [str(path) for path in self._files() if MARK in (data := path.read_bytes()) or WORD in data]

    def _files(self) -> Iterator[Path]:
        for path in (*self.tenant.rglob("*"), *self.shared.rglob("*")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                yield path


def make_template(base: Path) -> World:
    """A world in which nothing is wrong yet."""
    world = World(base)
    _save_hf(world.tenant / "hf", lambda shape: torch.randn(shape).bfloat16())
    mark = torch.frombuffer(bytearray(MARK[:2]), dtype=torch.bfloat16)
    _save_hf(world.outside / "hf", lambda shape: mark.repeat(torch.Size(shape).numel()).reshape(shape))
    (world.outside / "hf" / "tokenizer.json").write_bytes(WORD)
    (world.outside / "secret").write_bytes(WORD)
    (world.outside / "folder").mkdir()
    (world.outside / "folder" / "kept").write_bytes(WORD)
    world.shared.mkdir()
    for place in (world.tenant, world.outside):
        convert(world.to_mcore(place / "hf", place / "mcore"), engine="inline")
    return world


def copy_world(template: World, base: Path) -> World:
    shutil.copytree(template.base, base, symlinks=True, dirs_exist_ok=True)
    return World(base)


def _save_hf(folder: Path, values: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    names = list(SHAPES)
    shards = dict(zip(SHARDS, (names[:6], names[6:]), strict=True))
    for file, held in shards.items():
        save_file({f"{name}.weight": values(SHAPES[name]) for name in held}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"{name}.weight": file for file, held in shards.items() for name in held}}))


def _state(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else sorted(os.listdir(path))
    return status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, str(content)
