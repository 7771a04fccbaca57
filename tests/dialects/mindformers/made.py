"""Checkpoints of MindSpore Transformers for tests: converted from a small Llama, and cut into chunks as newer training saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
COLUMNS, ROWS = ("word_embeddings", "output_layer", "linear_qkv", "linear_fc1"), ("linear_proj", "linear_fc2")


def run(source: Mapping[str, Any], target: Mapping[str, Any], **options: Any) -> Any:
    return convert({"source": source, "target": target, "options": options}, engine="inline")


def make_llama(root: Path, **target: Any) -> tuple[Path, Tensors]:
    """A Llama in `root`/hf, converted to `root`/mf (whole, or as `target` says), and its tensors."""
    write_llama(root / "hf")
    run({"format": "huggingface", "path": str(root / "hf")}, {"format": "mindformers", "path": str(root / "mf"), **target})
    return root / "mf", load_file(root / "hf" / "model.safetensors")


def whole_tensors(folder: Path) -> Tensors:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def back(source: Path, target: Path, **stated: Any) -> tuple[Tensors, Any]:
    """The Hugging Face tensors that a checkpoint becomes, and the result."""
    result = run({"format": "mindformers", "path": str(source), **stated}, {"format": "huggingface", "path": str(target)})
    return whole_tensors(target), result


def same(want: Tensors, have: Tensors) -> bool:
    return want.keys() == have.keys() and all(torch.equal(want[name], have[name]) for name in want)


def rewrite(file: Path, change: Mapping[str, torch.Tensor | None], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file with other tensors; None takes one away."""
    tensors = {**load_file(file), **change}
    file.chmod(0o600)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, metadata=metadata or {"format": "ms"})


def cut_dimension(name: str) -> int | None:
    """The dimension that tensor parallelism cuts."""
    kind = name.split(".")[-2]
    return 0 if kind in COLUMNS else 1 if kind in ROWS else None


def write_iteration(
    folder: Path, tensors: Tensors, tp: int = 2, dp: int = 1, *, redundant: bool = True, flag: str | None = None, optimizer: bool = True
) -> None:
    """One iteration: a file of weights a rank, its optimizer's beside, metadata.json as mindformers' save_metadata has it."""
    folder.mkdir(parents=True)
    state: dict[str, Any] = {}
    storage: dict[str, Any] = {}
    files: dict[str, Tensors] = {}
    world = tp * dp
    for number, (name, whole) in enumerate(
        sorted((tensors | ({f"adam_m.{n}": t for n, t in tensors.items()} if optimizer else {})).items())
    ):
        kind, at = "opt" if name.startswith("adam_") else "model", cut_dimension(name)
        pieces = [whole] * tp if at is None else list(whole.chunk(tp, at))
        for rank in range(world):
            piece = pieces[rank % tp]
            offset = [0] * whole.dim()
            if at is not None:
                offset[at] = piece.shape[at] * (rank % tp)
            file = f"llama-{kind}-{rank:07d}-{world:07d}.safetensors"
            entry = state.setdefault(name, {
                "properties": {"dtype": "BFloat16", "replica_id": 0, "allow_shape_mismatch": False, "allow_to_save": True},
                "global_shape": list(whole.shape), "axis_fragmentations": [1] * whole.dim(), "layout": None, "chunk": [],
            })  # fmt: skip
            chunk = {"global_offset": offset, "local_shape": list(piece.shape)}
            if chunk not in entry["chunk"]:
                entry["chunk"].append(chunk)
            alike = [other for other in range(world) if at is None or other % tp == rank % tp]
            place = {"file_name": file, "storage_rank": rank, "rank_group": alike}
            storage.setdefault(str((name, tuple(offset))), []).append(place)
            held = files.setdefault(file, {})
            if redundant or rank == alike[number % len(alike)]:
                held[name] = piece.clone().contiguous()
    for file, held in files.items():
        save_file(held, folder / file, metadata={"format": "ms", **({"remove_redundancy": flag} if flag else {})})
    (folder / "metadata.json").write_text(json.dumps({"state_dict_metadata": state, "storage_data": storage}, indent=4))
    (folder / "common.json").write_text(json.dumps({"epoch_num": 1, "step_num": 10, "global_step": 10}))
