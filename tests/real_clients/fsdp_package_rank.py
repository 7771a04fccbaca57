"""One rank of a world of gloo processes in which the package megatron-fsdp shards modules: it loads what is written, and saves it again.

    python fsdp_package_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task is {"name", "checkpoint", "whole", "again"}: a directory with `.metadata`, the same tensors as safetensors, and where to save. Its
state dict is the package's own, made ready for uneven shards by its hook. What differs goes to RESULTS.json, and how many shards of this
rank have another number of rows than all would have if they were even.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import megatron_fsdp
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from megatron_fsdp import fully_shard_model
from safetensors.torch import load_file
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

PREFIX = "model.module."
CPU = torch.device("cpu")


class Stream:
    """What a CPU has in the place of a stream: nothing waits."""

    def wait_stream(self, other: Any) -> None:
        pass


class Unit(torch.nn.Module):
    """What is sharded as one: a layer."""


def install() -> None:
    """What the wrapper asks of CUDA without need, as it computes nothing here."""
    torch.cuda.Stream = Stream
    torch.cuda.current_stream = Stream
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.cuda.synchronize = lambda *device: None
    torch.cuda.current_device = lambda: 0
    torch.Tensor.cuda = lambda self: self


def named(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module whose state has these names, of other values."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        owner = root
        for above, part in zip(["", *path], path, strict=False):
            if part not in dict(owner.named_children()):
                owner.add_module(part, Unit() if above == "layers" else torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(last, torch.nn.Parameter(torch.full_like(tensor, 7)))
    return root


def run(task: dict[str, Any]) -> dict[str, Any]:
    whole = {name.removeprefix(PREFIX): each for name, each in load_file(task["whole"]).items()}
    mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("fsdp", "tp"))
    wrapped = fully_shard_model(
        named(whole),
        device_mesh=mesh,
        expt_device_mesh=mesh,
        dp_shard_dim="fsdp",
        tp_dim="tp",
        fsdp_unit_modules=[Unit],
        zero_dp_strategy=3,
        device=CPU,
    )
    state = {"model": wrapped.state_dict()}
    dcp.load(state, storage_reader=dcp.FileSystemReader(task["checkpoint"]), planner=DefaultLoadPlanner(allow_partial_load=False))
    dcp.save({"model": wrapped.state_dict()}, storage_writer=dcp.FileSystemWriter(task["again"]))
    shards = {name: each for name, each in state["model"].items() if isinstance(each, DTensor)}
    uneven = sum(each.to_local().shape[0] * dist.get_world_size() != each.shape[0] for each in shards.values())
    differ = [name for name, each in shards.items() if not torch.equal(gathered(each), whole[name.removeprefix("module.")])]
    return {"uneven": uneven, "keys": sorted(f"model.{name}" for name in shards), "differ": differ}


def gathered(tensor: DTensor) -> torch.Tensor:
    """The whole of what ranks have rows of, some of them none; gloo gathers no tensors of different sizes."""
    shards: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shards, tensor.to_local())
    return torch.cat(shards)


def main(rank: str, size: str, meeting: str, tasks: str, results: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(size))
    install()
    answers: dict[str, Any] = {"version": megatron_fsdp.__version__}
    for task in json.loads(Path(tasks).read_text()):
        try:
            answers[task["name"]] = run(task)
        except Exception:
            answers[task["name"]] = {"error": traceback.format_exc()}
    Path(results).write_text(json.dumps(answers))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
