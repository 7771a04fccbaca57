"""One rank of a world of gloo processes, `python dcp_rank.py save|load FOLDER HF`: fully_shard's shards of a model, saved or loaded."""

from __future__ import annotations

import sys
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def named(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A module whose state has these names."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(last, nn.Parameter(tensor.clone()))
    return root


def main(verb: str, folder: str, hf: str) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    tensors = load_file(f"{hf}/model.safetensors")
    module = named(tensors if verb == "save" else {name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
    fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    state = {"model": module.state_dict()}
    if verb == "save":
        dcp.save(state, checkpoint_id=folder)
    else:
        dcp.load(state, checkpoint_id=folder)
        for name, tensor in state["model"].items():
            assert isinstance(tensor, DTensor)
            assert torch.equal(tensor.full_tensor(), tensors[name]), name
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
