"""Rank files whose args are changed: what training would have saved of the same tensors."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from tests.tiny_checkpoints import write_llama

# The layout as the converter says it; training says it otherwise.
LAYOUT = ("num_layer_list", "num_layers_per_virtual_pipeline_stage", "virtual_pipeline_model_parallel_size", "vpp_size", "noop_layers")


def write_ranks(folder: Path, layers: int, **layout: Any) -> Path:
    """A Llama's rank files; the model itself lies in `folder`/hf."""
    write_llama(folder / "hf", layers)
    source = {"format": "huggingface", "path": str(folder / "hf")}
    convert({"source": source, "target": {"format": "mindspeed-llm", "path": str(folder / "mcore"), **layout}}, engine="inline")
    return folder / "mcore"


def change(mcore: Path, changing: Callable[[dict[str, Any], int], None]) -> None:
    """Give each rank's content, and its number, to `changing`, and save it again as training does."""
    for number, path in enumerate(sorted(mcore.glob("*/mp_rank_*/model_optim_rng.pt"))):
        content = torch.load(path, weights_only=False)
        changing(content, number)
        torch.save(content, path)


def say(mcore: Path, **args: Any) -> None:
    """Put these args in the place of those that say the layout."""

    def changing(content: dict[str, Any], number: int) -> None:
        kept = {name: value for name, value in vars(content["args"]).items() if name not in LAYOUT}
        content["args"] = Namespace(**kept | args)

    change(mcore, changing)


def back(mcore: Path, **options: Any) -> dict[str, Any]:
    """The job that makes a Hugging Face directory of rank files."""
    target = {"format": "huggingface", "path": str(mcore.parent / "back")}
    return {"model_type": "llama2", "source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": target, "options": options}


def assert_comes_back(mcore: Path) -> None:
    convert(back(mcore), engine="inline")
    want = load_file(mcore.parent / "hf" / "model.safetensors")
    have = {name: tensor for file in (mcore.parent / "back").glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert set(have) == set(want)
    assert not [name for name, tensor in want.items() if not torch.equal(tensor, have[name])]
