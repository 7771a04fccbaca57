"""One rank of a world on CPUs with Megatron-FSDP: it shards a model, loads a checkpoint (fsdp_dtensor), and saves it again.

    python megatron_fsdp_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task is {"name", "checkpoint", "tokens", "layout": {"tp", "ep"}, "again"}. The state dict is made, loaded and saved as
megatron/training/checkpointing.py does it, with core's own functions; what comes of each task goes to RESULTS.json: "error", or how many
shards of this rank are uneven, the versions, and, where a rank has the whole model, the logits.
"""

from __future__ import annotations

import contextlib
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import megatron_dist_rank as dist_rank
import megatron_rank as rank_files
import torch
import torch.distributed.checkpoint as dcp
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.fsdp import mcore_fsdp_adapter
from megatron.core.distributed.fsdp.src.megatron_fsdp.uneven_dtensor import preprocess_state_dict_for_uneven_dtensor
from megatron.core.transformer import fsdp_dtensor_checkpoint as own
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

MTP = re.compile(r"(mtp\.layers\.\d+\.)mtp_model_layer\.")
EXPERT = re.compile(r"experts\.(linear_fc\d)\.weight(\d+)")
CPU = torch.device("cpu")


class Stream:
    """What a CPU has in the place of a stream: nothing waits."""

    def wait_stream(self, other: Any) -> None:
        pass


class Mesh:
    """Megatron-FSDP says cuda of the ranks' groups, which are gloo's."""

    @staticmethod
    def from_group(groups: Any, device_type: str, **named: Any) -> Any:
        return DeviceMesh.from_group(groups, device_type="cpu", **named)


def mesh_of(dp_group: Any, tp_group: Any, ep_size: int = 1) -> torch.Tensor:
    """_get_dp_tp_mesh, which wants einops: ranks by data and tensor parallel places, those of this rank's experts."""
    ranks = torch.arange(torch.distributed.get_world_size()).reshape(dp_group.size(), ep_size, tp_group.size())
    return next(each for each in ranks.unbind(1) if torch.distributed.get_rank() in each)


def install() -> None:
    """What the wrapper asks of CUDA without need, as it computes nothing here."""
    torch.cuda.Stream = Stream
    torch.cuda.current_stream = Stream
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.cuda.synchronize = lambda *device: None
    mcore_fsdp_adapter.FullyShardedDataParallel.sync_rng_states_across_tp_group = lambda self: None
    mcore_fsdp_adapter.TELinear = dist_rank.megatron_te.WholeLinear  # None without Transformer Engine, and compared as a type
    mcore_fsdp_adapter.DeviceMesh = Mesh
    mcore_fsdp_adapter._get_dp_tp_mesh = mesh_of


def run(task: dict[str, Any]) -> dict[str, Any]:
    layout = {"tp": 1, "pp": 1, "ep": 1, "vpp": None, **task["layout"]}
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout["tp"],
        expert_model_parallel_size=layout["ep"],
        expert_tensor_parallel_size=layout.get("etp", layout["tp"]),
    )
    tensor_parallel.get_cuda_rng_tracker().fork = rank_files._no_fork
    torch.manual_seed(7)
    folder = dist_rank.iteration_of(Path(task["checkpoint"]))
    words: dict[str, Any] = {"args": None, "iteration": None, "checkpoint_version": None}
    dcp.load(words, checkpoint_id=folder)
    args = dist_rank.at(words["args"], layout)
    grouped, args.moe_grouped_gemm = getattr(args, "moe_grouped_gemm", False), False  # of which there is no module without CUDA
    model = dist_rank.build(args, None)
    if grouped:
        group(model)
    wrapped = wrap(model)
    state = state_of(wrapped, args, renamed=True)
    planner = DefaultLoadPlanner(allow_partial_load=False)
    dcp.load(state, storage_reader=dcp.FileSystemReader(folder), planner=planner)
    shards = [each for each in state["model"].values() if isinstance(each, DTensor)]
    uneven = sum(each.to_local().shape[0] * torch.distributed.get_world_size() != each.shape[0] for each in shards if each.ndim)
    save(Path(task["again"]), state_of(wrapped, args, renamed=False))
    whole = layout["tp"] == layout["ep"] == 1
    return {"uneven": uneven, "keys": sorted(state["model"]), "logits": logits_of(wrapped, task, args) if whole else None}


class Named(torch.nn.Module):
    """Parameters under names."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        for name, each in parameters.items():
            self.register_parameter(name, each)


class Grouped(torch.nn.Module):
    """Experts by the names of TEGroupedMLP, which computes them in one kernel: linear_fc1.weight0, weight1 ..."""

    def __init__(self, experts: torch.nn.ModuleList) -> None:
        super().__init__()
        for name in ("linear_fc1", "linear_fc2"):
            self.add_module(name, Named({f"weight{number}": getattr(each, name).weight for number, each in enumerate(experts)}))


def group(model: Any) -> None:
    for module in list(model.modules()):
        if hasattr(experts := getattr(module, "experts", None), "local_experts"):
            module.experts = Grouped(experts.local_experts)


def wrap(model: Any) -> Any:
    """As training does with --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params."""
    config = DistributedDataParallelConfig(
        use_megatron_fsdp=True, use_distributed_optimizer=True, data_parallel_sharding_strategy="optim_grads_params"
    )
    current, torch.cuda.current_device = torch.cuda.current_device, lambda: 0  # the wrapper makes a device of its number
    try:
        return mcore_fsdp_adapter.FullyShardedDataParallel(model.config, config, model, fsdp_unit_modules=[TransformerLayer], device=CPU)
    finally:
        torch.cuda.current_device = current


def state_of(wrapped: Any, args: Namespace, *, renamed: bool) -> dict[str, Any]:
    """As generate_state_dict and preprocess_fsdp_dtensor_state_dict make it of a model; `renamed`: as those after core 0.19 do."""
    model = wrapped.state_dict_for_save_checkpoint()
    own.handle_fp8_extra_state_case(model)
    if args.swiglu:
        model, _ = own.handle_swiglu_in_state_dict(wrapped, model, None)
    if hasattr(own, "handle_gdn_in_state_dict"):
        model, _ = own.handle_gdn_in_state_dict(wrapped, model, None)
    if not hasattr(own, "handle_mtp_in_state_dict"):  # which later cores have: checkpoints keep the name that the module had before
        model = {MTP.sub(r"\1transformer_layer.", name) if renamed else name: each for name, each in model.items()}
    if getattr(args, "num_experts", None):
        model = own.handle_experts_in_state_dict(model, args.num_experts)
    state = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": model}
    preprocess_state_dict_for_uneven_dtensor(state)
    return state


def save(directory: Path, state: dict[str, Any]) -> None:
    """As save_checkpoint."""
    folder = directory / "iter_0000003"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    dcp.save({**state, "iteration": 3}, storage_writer=dcp.FileSystemWriter(folder))
    (directory / "latest_checkpointed_iteration.txt").write_text("3")


def logits_of(wrapped: Any, task: dict[str, Any], args: Namespace) -> Any:
    """What the model computes whose shards were loaded: gathered into one that is not wrapped."""
    prefix, held = "module.", dict[str, Any]()
    for name, each in wrapped.state_dict_for_save_checkpoint().items():
        if each is not None and not name.endswith("_extra_state"):
            held[EXPERT.sub(r"experts.local_experts.\2.\1.weight", name.removeprefix(prefix))] = (
                gathered(each) if isinstance(each, DTensor) else each
            )
    plain = dist_rank.build(args, None)
    plain.load_state_dict(held, strict=True)
    return dist_rank.logits_of([plain], task, args)


def gathered(tensor: DTensor) -> torch.Tensor:
    """The whole of what ranks have rows of, some of them none; gloo gathers no tensors of different sizes."""
    shards: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shards, tensor.to_local())
    return torch.cat(shards)


if __name__ == "__main__":
    install()
    dist_rank.answer(run, *sys.argv[1:])
