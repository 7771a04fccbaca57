"""One rank of a world of gloo processes, `python dcp_keys_rank.py FOLDER OURS WHOLE ...`: it loads what is written under Megatron's keys.

OURS is a directory with `.metadata`, WHOLE the same tensors as safetensors. Each is loaded into FSDP2's shards and into a mesh's, compared,
and saved again from both, in FOLDER.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.real_clients.dcp_rank import both_ways, check_loads, sharded


def load_and_save(folder: Path, ours: Path, tensors: dict[str, torch.Tensor]) -> None:
    check_loads(ours, tensors)
    dcp.save(sharded(tensors).state_dict(), checkpoint_id=folder / "rows")
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world // 2, 2) if world > 1 else (1, 1))
    state = {name: both_ways(torch.full_like(tensor, 7), mesh) for name, tensor in tensors.items()}
    dcp.load(state, checkpoint_id=ours)
    for name, tensor in state.items():
        assert isinstance(tensor, DTensor)
        assert torch.equal(tensor.full_tensor(), tensors[name]), f"{ours}: {name}"
    dcp.save(state, checkpoint_id=folder / "both-ways")


def main(folder: str, *pairs: str) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    for ours, whole in zip(pairs[::2], pairs[1::2], strict=True):
        load_and_save(Path(folder) / Path(whole).stem, Path(ours), load_file(whole))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
