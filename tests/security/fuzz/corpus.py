"""Valid files to start from: written by torch, by safetensors and by convsvc, and a small checkpoint of every family."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import FAMILIES, Facts
from convsvc.formats import safetensors as our_safetensors
from convsvc.formats import torch_zip
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.models.family import Wanted
from convsvc.plan.planner import make_plan
from tests.roundtrip.any_family import CONFIGS

TENSORS = {"a": torch.ones(3), "b.weight": torch.zeros(2, 2, dtype=torch.bfloat16), "c": torch.zeros(0, 3), "d": torch.tensor(1.0)}
# Families whose rank files are looked at as well: plain attention, experts, latent attention.
AS_RANKS = ("llama2", "qwen3-moe", "deepseek3", "mamba2")


def safetensors_files() -> list[bytes]:
    ours = our_safetensors.plan_skeleton([TensorSpec("w", "BF16", (2, 3)), TensorSpec("é", "F8_E4M3", (4,))], {"format": "pt"}, align=8)
    return [
        safetensors.torch.save(TENSORS, {"format": "pt", "é": "x"}),
        safetensors.torch.save({f"model.layers.{n}.w": torch.zeros(2, 2) for n in range(8)}),
        safetensors.torch.save({}),
        ours.segments[0][1].ljust(ours.size_bytes, b"\0"),
    ]


def torch_files() -> list[bytes]:
    """Rank files and state dicts, one with strided views and a Parameter; a legacy file and a tar, which are to be refused."""
    shared = torch.arange(12.0)
    state = OrderedDict(TENSORS) | {"view": shared[2:8].view(2, 3), "turned": shared.view(3, 4).t(), "p": torch.nn.Parameter(torch.ones(2))}
    args = argparse.Namespace(tensor_model_parallel_size=1, num_layers=2, noop_layers={0}, dtype=torch.bfloat16, size=torch.Size([2]))
    rank = {"args": args, "model": state, "checkpoint_version": 3.0, "iteration": 1, "rng_state": [b"x" * 8, (1, None)]}
    tree = {"args": argparse.Namespace(x=[1, 2.5, "a"], y={"z": None}), "model": {"w": TensorSpec("w", "BF16", (2, 3))}}
    return [
        _saved(rank),
        _saved(state),
        torch_file(tree),
        _saved(rank, _use_new_zipfile_serialization=False),
        bytes(257) + b"ustar" + bytes(300),
    ]


def pickles() -> list[bytes]:
    """data.pkl as torch writes it, and the same kinds of objects in the protocols that others use."""
    found = [zipfile.ZipFile(io.BytesIO(data)).read(name) for data, name in _pickled(torch_files())]
    plain = {"a": [1, -1, 2**40, 1.5, "é", b"x", None, True], "t": (1, (2, (3,))), "s": {1, 2}, "f": frozenset({"x"}), "big": 2**200}
    return [*found, *(pickle.dumps(plain, protocol) for protocol in (2, 3, 4, 5)), pickle.dumps(argparse.Namespace(x=1, y=[{}] * 3), 4)]


def _pickled(files: list[bytes]) -> list[tuple[bytes, str]]:
    zips = [data for data in files if data.startswith(b"PK")]
    return [(data, next(name for name in zipfile.ZipFile(io.BytesIO(data)).namelist() if name.endswith("data.pkl"))) for data in zips]


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def torch_file(tree: dict[str, Any]) -> bytes:
    """A file of ours whose tensors are zero."""
    return _filled(torch_zip.plan_skeleton(tree, archive="archive", align=64))


def _filled(skeleton: Skeleton) -> bytes:
    data = bytearray(skeleton.size_bytes)
    for at, part in (*skeleton.segments, *torch_zip.seal(skeleton, dict.fromkeys((each.name for each in skeleton.tensors), 0))):
        data[at : at + len(part)] = part
    return bytes(data)


def config_of(family: str) -> dict[str, Any]:
    """The first of each choice, with three layers."""
    config = {name: value[0] if isinstance(value, tuple) else value for name, value in CONFIGS[family].items()}
    query = config.pop("query", None)
    config = {name: value for name, value in config.items() if value is not None}
    config["num_layers" if family == "longcat" else "num_hidden_layers"] = 3
    if query is not None:
        config["num_attention_heads"] = config["num_key_value_heads"] * 2
    if "compress_ratios" in config:
        config["compress_ratios"] = [0, 4, 8]
    return config


def write_checkpoint(family: str, folder: Path) -> dict[str, Any]:
    """A Hugging Face checkpoint of the family whose weights are zero; its configuration."""
    folder.mkdir()
    config = config_of(family)
    model = FAMILIES[family].build(Facts(config, "config.json"), Wanted(num_mtp=config.get("num_nextn_predict_layers", 0)))
    shapes = {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}
    dtypes = {name: "I64" if name.endswith("tid2eid") else "BF16" for name in shapes}
    skeleton = our_safetensors.plan_skeleton([TensorSpec(name, dtypes[name], shape) for name, shape in shapes.items()])
    with (folder / "model.safetensors").open("wb") as file:
        file.write(skeleton.segments[0][1])
        file.truncate(skeleton.size_bytes)
    (folder / "config.json").write_text(json.dumps(config))
    return config


def write_ranks(source: Path, family: str, folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The same as one rank file: where it is, its saved args, and the rest of its tree with sizes instead of tensors."""
    places = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "mindspeed-llm", "path": str(folder)}}
    (skeleton,) = make_plan({**places, "model_type": family}).skeletons
    path = folder / "release" / "mp_rank_00" / "model_optim_rng.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(_filled(skeleton))
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    tree = dict(torch_zip.read_index(path).tree)
    args = vars(tree.pop("args"))
    specs = {name: TensorSpec(name, tensor.dtype, tensor.shape) for name, tensor in tree.pop("model").items()}
    return path, args, {**tree, "model": specs}
