"""One of two ranks on CPUs which go on training with Megatron-FSDP from what we wrote with the optimizer's state (fsdp_dtensor).

    python megatron_fsdp_train_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task is {"name", "checkpoint", "half", "steps", "saved", "save_after"}: model, optimizer and schedule are made, loaded strictly and
saved after so many steps by core's functions as megatron/training/checkpointing.py calls them, and trained on the tokens of
`megatron_train_rank`; the losses go to RESULTS.json. `half`: the model is in bf16. What core has of CUDA there are streams and events,
where a CPU waits for nothing (`megatron_fsdp_rank`).

Not one rank: of a single one core adds every gradient to itself, as its bucket is the buffer that it is added to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import megatron_fsdp_rank as fsdp
import megatron_train_rank as trains
import torch
import torch.distributed.checkpoint as dcp
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import Float16Module
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

FORM = {"distrib_optim_sharding_type": "fsdp_dtensor"}


class Event:
    """Of such a stream: it has happened."""

    def wait(self, *streams: Any) -> None:
        pass

    def query(self) -> bool:
        return True


class Named:
    """Parameters of the wrapped model by any of their names: core 0.16.1 asks for those of the optimizer by one `module.` too few."""

    def __init__(self, wrapped: Any) -> None:
        self.config = wrapped.config
        self.held = {name.replace("module.", ""): each for name, each in wrapped.named_parameters()}

    def get_parameter(self, name: str) -> Any:
        return self.held[name.replace("module.", "")]


def run(task: dict[str, Any]) -> dict[str, Any]:
    parallel_state.initialize_model_parallel()
    tensor_parallel.get_cuda_rng_tracker().fork = fsdp.rank_files._no_fork
    torch.manual_seed(7)
    folder = fsdp.dist_rank.iteration_of(Path(task["checkpoint"]))
    words: dict[str, Any] = {"args": None, "iteration": None}
    dcp.load(words, checkpoint_id=folder)
    args = fsdp.dist_rank.at(words["args"], {"tp": 1, "pp": 1, "ep": 1, "vpp": None})
    args.moe_grouped_gemm = False
    model = fsdp.dist_rank.build(args, None).train()
    model.config.finalize_model_grads_func = finalize_model_grads
    of_logits = model.compute_language_model_loss
    # The wrapper's hooks give a module's output on as a view, which the loss that is not fused would change in its place.
    model.compute_language_model_loss = lambda labels, logits: of_logits(labels, logits.clone())
    wrapped = fsdp.wrap(in_half(model) if task["half"] else model)
    wrapped.ddp_config.gradient_reduce_div_fusion = False  # gloo's sums do not scale
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam", lr=1e-2, min_lr=1e-4, weight_decay=0.1, clip_grad=1.0, use_distributed_optimizer=True, bf16=task["half"]
        ),
        [wrapped],
    )
    schedule = OptimizerParamScheduler(optimizer, 0.0, 1e-2, 1e-4, 8, 64, "cosine", 0.1, 0.1, 0, "constant")
    load(folder, args, wrapped, optimizer, schedule)
    losses, first = [], words["iteration"]
    for step in range(first, first + task["steps"] + 1):
        if step == first + task["save_after"]:
            save(Path(task["saved"]), step, args, wrapped, optimizer, schedule)
        if step == first + task["steps"]:
            break
        losses.append(trains.train(step, args, [wrapped], optimizer))
        schedule.step(increment=trains.BATCHES * trains.BATCH)
    return {"losses": losses, "rates": sorted({group["lr"] for group in optimizer.param_groups})}


def in_half(model: Any) -> Any:
    """As get_model wraps what is trained in bf16."""
    model.config.bf16, model.config.params_dtype = True, torch.bfloat16
    return Float16Module(model.config, model)


def load(folder: Path, args: Any, wrapped: Any, optimizer: Any, schedule: Any) -> None:
    """As load_checkpoint and _load_base_checkpoint: tensors are loaded into those that model and optimizer have."""
    primed(optimizer.optimizer)
    state = state_of(1, args, wrapped, optimizer, schedule, is_loading=True)
    raw = {name: state[name].copy() for name in ("model", "optimizer")}
    flat = saved_form(state, args, wrapped)
    dcp.load(flat, storage_reader=dcp.FileSystemReader(folder), planner=DefaultLoadPlanner(allow_partial_load=False))
    wrapped.load_state_dict(raw["model"], strict=True)
    optimizer.load_state_dict(raw["optimizer"])
    schedule.load_state_dict(flat["opt_param_scheduler"])


def state_of(iteration: int, args: Any, wrapped: Any, optimizer: Any, schedule: Any, *, is_loading: bool) -> dict[str, Any]:
    """As generate_state_dict."""
    return {
        "args": args, "checkpoint_version": 3.0, "iteration": iteration,
        "model": wrapped.state_dict_for_save_checkpoint(),
        "optimizer": optimizer.sharded_state_dict({}, is_loading=is_loading, metadata=FORM),
        "opt_param_scheduler": schedule.state_dict(),
    }  # fmt: skip


def save(directory: Path, step: int, args: Any, wrapped: Any, optimizer: Any, schedule: Any) -> None:
    """As save_checkpoint. Of what it has no rows of a rank has counted no steps, which Transformer Engine's Adam counts for a group."""
    args.consumed_train_samples = step * trains.BATCHES * trains.BATCH
    for moments in optimizer.optimizer.state.values():
        moments["step"].fill_(step)
    folder = directory / f"iter_{step:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    flat = saved_form(state_of(step, args, wrapped, optimizer, schedule, is_loading=False), args, wrapped)
    dcp.save(flat, storage_writer=dcp.FileSystemWriter(folder))
    (directory / "latest_checkpointed_iteration.txt").write_text(str(step))


def primed(optimizer: Any) -> None:
    """State of all weights on every rank, of those that it has no rows of, too: core gives these none, and ranks then gather each other's
    state of other weights (core 0.16.1, _init_optimizer_states_with_dummy_values)."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()


def saved_form(state: dict[str, Any], args: Any, wrapped: Any) -> dict[str, Any]:
    """As preprocess_fsdp_dtensor_state_dict."""
    model, optimizer = state["model"].copy(), state["optimizer"]
    fsdp.own.handle_fp8_extra_state_case(model)
    if args.swiglu:
        model, optimizer = fsdp.own.handle_swiglu_in_state_dict(Named(wrapped), model, optimizer)
    if getattr(args, "num_experts", None):
        model = fsdp.own.handle_experts_in_state_dict(model, args.num_experts)
    flat = {**state, "model": model, "optimizer": optimizer}
    fsdp.preprocess_state_dict_for_uneven_dtensor(flat)
    return flat


if __name__ == "__main__":
    fsdp.install()
    fsdp.Stream.record_event = lambda self, *given: Event()
    fsdp.dist_rank.answer(run, *sys.argv[1:])
