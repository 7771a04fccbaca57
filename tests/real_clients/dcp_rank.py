"""One rank of a world of gloo processes, `python dcp_rank.py HF FOLDER OURS ...`: it loads ours, and saves a model in torch's forms.

HF has the weights, OURS are checkpoints of them, under the prefix `model.` where a name says nested; what is saved lies in FOLDER.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

Tensors = dict[str, torch.Tensor]


def named(tensors: Tensors) -> nn.Module:
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


def sharded(tensors: Tensors) -> nn.Module:
    """The module as FSDP2 has it on this rank."""
    module = named(tensors)
    fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return module


def check_loads(folder: Path, tensors: Tensors) -> None:
    state = sharded({name: torch.full_like(tensor, 7) for name, tensor in tensors.items()}).state_dict()
    dcp.load({"model": state} if "nested" in folder.name else state, checkpoint_id=folder)
    for name, tensor in state.items():
        assert isinstance(tensor, DTensor)
        assert torch.equal(tensor.full_tensor(), tensors[name]), f"{folder.name}: {name}"


def save(folder: Path, tensors: Tensors) -> None:
    """Flat; nested with an optimizer's state; as safetensors with offsets, consolidated or not; cut along both of a matrix's dimensions."""
    module = sharded(tensors)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state, optimizer_state = get_state_dict(module, optimizer)
    dcp.save(state, checkpoint_id=folder / "flat")
    dcp.save({"model": state, "optim": optimizer_state, "step": 1}, checkpoint_id=folder / "nested")
    for name, consolidated in (("sharded", False), ("consolidated", True)):
        path = str(folder / name)
        writer = dcp.HuggingFaceStorageWriter(path, save_distributed=True, enable_consolidation=consolidated)
        dcp.save(state, storage_writer=writer)
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world // 2, 2) if world > 1 else (1, 1))
    dcp.save({name: both_ways(tensor, mesh) for name, tensor in tensors.items()}, checkpoint_id=folder / "both-ways")


def both_ways(tensor: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    """As FSDP and tensor parallelism together cut a matrix; a vector is cut by the first and copied by the second."""
    return distribute_tensor(tensor, mesh, [Shard(0), Shard(1) if tensor.ndim > 1 else Replicate()])


def main(hf: str, folder: str, *written: str) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    tensors = load_file(Path(hf) / "model.safetensors")
    for ours in written:
        check_loads(Path(ours), tensors)
    save(Path(folder), tensors)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
