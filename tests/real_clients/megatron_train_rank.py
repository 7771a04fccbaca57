"""One rank of a Megatron world on CPUs which trains: with its own wrapper for gradients, distributed optimizer, schedule of stages.

    python megatron_train_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task is {"name", "checkpoint", "layout": {"tp", "pp", "vpp", "ep", "etp"}, "goes_on", "steps", "saved", "save_after"}: the model that the
checkpoint's args describe is loaded at the layout, with the optimizer's state if training "goes_on", and trained for so many steps on
tokens that follow from the step's number; after "save_after" steps everything is saved at "saved". The losses go to RESULTS.json.

What needs CUDA is a name only: that of the device for new tensors, and of a tensor's type, by which Megatron finds its main weights.
torch's Adam keeps the step among a parameter's moments, Transformer Engine's with its groups: where Megatron's code for torch's trips over
that, in loading, it is helped (`primed`, `load`, `set_moments`).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

if __name__ != "__mp_main__":
    import megatron_dist_rank as dist
    import torch
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.distributed.finalize_model_grads import finalize_model_grads
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    from megatron.core.pipeline_parallel import get_forward_backward_func

    def on_cpu(make: Any) -> Any:
        return lambda *given, **named: make(*given, **{**named, **({"device": "cpu"} if named.get("device") == "cuda" else {})})

    for name in ("tensor", "zeros", "ones", "empty", "full"):
        setattr(torch, name, on_cpu(getattr(torch, name)))
    of_type = torch.Tensor.type
    torch.Tensor.type = lambda self, *given, **named: (
        of_type(self, *given, **named) if given or named else of_type(self).replace("torch.", "torch.cuda.", 1)
    )
    torch.cuda.current_stream = lambda *given: None  # core 0.19 asks for it, and orders its work by it where there are several
    set_moments = DistributedOptimizer._set_main_param_and_optimizer_states
    DistributedOptimizer._set_main_param_and_optimizer_states = lambda self, param, tensors: set_moments(
        self, param, {**self._get_main_param_and_optimizer_states(param), **tensors}
    )

BATCHES, BATCH, LENGTH = 2, 2, 8
CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable", "distrib_optim_fully_reshardable_mem_efficient": False,
    "singleton_local_shards": False, "chained_optim_avoid_prefix": True,
}  # fmt: skip


def run(task: dict[str, Any]) -> dict[str, Any]:
    layout = {"tp": 1, "pp": 1, "ep": 1, "vpp": None, **task["layout"]}
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout["tp"],
        pipeline_model_parallel_size=layout["pp"],
        virtual_pipeline_model_parallel_size=layout["vpp"],
        expert_model_parallel_size=layout["ep"],
        expert_tensor_parallel_size=layout.get("etp", layout["tp"]),
    )
    tensor_parallel.get_cuda_rng_tracker().fork = dist.rank_files._no_fork
    torch.manual_seed(7)
    folder = dist.iteration_of(Path(task["checkpoint"]))
    common = dist_checkpointing.load_common_state_dict(str(folder))
    args, metadata = dist.at(common["args"], layout), dist_checkpointing.load_content_metadata(preloaded_state_dict=common)
    chunks = wrapped(args, layout)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(optimizer="adam", lr=1e-2, min_lr=1e-4, weight_decay=0.1, clip_grad=1.0, use_distributed_optimizer=True), chunks
    )
    schedule = OptimizerParamScheduler(optimizer, 0.0, 1e-2, 1e-4, 8, 64, "cosine", 0.1, 0.1, 0, "constant")
    load(str(folder), chunks, metadata, *([optimizer, schedule] if task["goes_on"] else []))
    if not task["goes_on"]:
        optimizer.reload_model_params()
    first = common["iteration"] if task["goes_on"] else 0
    losses = []
    for step in range(first, first + task["steps"]):
        if task.get("saved") and step == task["save_after"]:
            save(Path(task["saved"]), step, args, metadata, chunks, optimizer, schedule)
        losses.append(train(step, args, chunks, optimizer))
        schedule.step(increment=BATCHES * BATCH)
    return {"losses": losses, "rates": sorted({group["lr"] for group in optimizer.param_groups})}


def wrapped(args: Namespace, layout: dict[str, Any]) -> list[Any]:
    """The model chunks with Megatron's buffers for gradients."""
    config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    chunks = []
    for number in range(layout["vpp"] or 1):
        model = dist.build(args, None if layout["vpp"] is None else number).train()
        if model.post_process:  # the loss wants every rank's own part of the vocabulary
            model.parallel_output, model.output_layer.gather_output = True, False
        model.config.finalize_model_grads_func = finalize_model_grads
        chunks.append(DistributedDataParallel(model.config, config, model))
    return chunks


def state(chunks: list[Any], metadata: dict[str, Any], *trained: Any, loading: bool) -> dict[str, Any]:
    """As megatron/training/checkpointing.py, generate_state_dict."""
    content = dist.sharded([chunk.module for chunk in chunks], metadata)
    if trained:
        optimizer, schedule = trained
        content["optimizer"] = optimizer.sharded_state_dict(content, is_loading=loading, metadata=dict(metadata))
        content["opt_param_scheduler"] = schedule.state_dict()
    return content


def load(folder: str, chunks: list[Any], metadata: dict[str, Any], *trained: Any) -> None:
    if trained:
        primed(trained[0])
    loaded = dist_checkpointing.load(state(chunks, metadata, *trained, loading=True), folder)
    for name, chunk in zip(sorted(name for name in loaded if name.startswith("model")), chunks, strict=True):
        chunk.module.load_state_dict(loaded[name], strict=True)
    if trained:
        optimizer, schedule = trained
        optimizer.load_state_dict(loaded["optimizer"])
        schedule.load_state_dict(loaded["opt_param_scheduler"])
        for moments in moments_of(optimizer):  # all of them get one tensor, which torch's Adam would count up once for each parameter
            moments["step"] = moments["step"].clone()


def primed(optimizer: Any) -> None:
    """torch's Adam keeps the step among the moments, where Megatron looks for it before there are any; Transformer Engine's does not."""
    for inner in optimizer.chained_optimizers:
        inner.init_state_fn(inner.optimizer, inner.config)
    for moments in moments_of(optimizer):
        moments["step"] = torch.tensor(0.0)


def moments_of(optimizer: Any) -> list[dict[str, Any]]:
    return [moments for inner in optimizer.chained_optimizers for moments in inner.optimizer.state.values()]


def save(directory: Path, step: int, args: Namespace, metadata: dict[str, Any], chunks: list[Any], *trained: Any) -> None:
    args.consumed_train_samples = step * BATCHES * BATCH
    content = {**metadata, **CONTENT}
    saved = {"args": args, "checkpoint_version": 3.0, "iteration": step, "content_metadata": content}
    saved |= state(chunks, content, *trained, loading=False)
    saved["rng_state"] = dist_checkpointing.mapping.ShardedObject(
        "rng_state", {"torch": torch.get_rng_state()}, (torch.distributed.get_world_size(),), (torch.distributed.get_rank(),)
    )
    folder = directory / f"iter_{step:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    dist_checkpointing.save(saved, str(folder))
    (directory / "latest_checkpointed_iteration.txt").write_text(str(step))


def train(step: int, args: Namespace, chunks: list[Any], optimizer: Any) -> float:
    """One step; its loss, which the last stage tells all others."""
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    found = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[batches(step, args) for _ in chunks] if len(chunks) > 1 else batches(step, args),
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=BATCHES,
        seq_length=LENGTH,
        micro_batch_size=BATCH,
        forward_only=False,
    )
    optimizer.step()
    loss = torch.tensor([sum(each["loss"] for each in found) / BATCHES if found else 0.0])
    last = parallel_state.get_pipeline_model_parallel_last_rank()
    torch.distributed.broadcast(loss, last, parallel_state.get_pipeline_model_parallel_group())
    return float(loss)


def batches(step: int, args: Namespace) -> Any:
    """Tokens of the vocabulary's first half: the others are moved by the softmax alone."""
    generator = torch.Generator().manual_seed(step)
    return iter([torch.randint(0, args.padded_vocab_size // 2, (BATCH, LENGTH + 1), generator=generator) for _ in range(BATCHES)])


def forward(tokens: Any, model: Any) -> Any:
    batch = next(tokens)
    given, wanted = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    mask = torch.ones(1, 1, LENGTH, LENGTH).tril() < 0.5
    positions = torch.arange(LENGTH).expand(BATCH, LENGTH)
    losses = model(given, positions, mask, labels=wanted)
    return losses, lambda each: (each.mean(), {"loss": float(each.mean())})


if __name__ == "__main__":
    dist.answer(run, *sys.argv[1:])
