"""One rank of a Megatron world on CPUs which saves and loads distributed checkpoints (torch_dist), and runs the models that are in them.

    python megatron_dist_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task {"name", "latent"} asks for the keys of a model of these args, with their whole shapes, and for its objects. Any other is {"name",
"checkpoint", "tokens", "layout": {"tp", "pp", "vpp", "ep", "etp"}, "again", "local", "single", "hashed"}: the checkpoint is loaded at the
layout, with Megatron's default strictness, and saved again at "again", by the names of Megatron's own modules if "local", with
singleton_local_shards if "single". Without "again" the checkpoint is of rank files. "hashed" asks a core that can for its own check of
integrity.json before it loads. One with "args", in the words of training alone, and "content" builds such a model of random values
(`values_of`), which no checkpoint held before, and saves it at "again", "hashed" by a core that can. What comes of each goes to
RESULTS.json: "error", or the logits from the last stage, and what names do not match.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

# The process that Megatron starts for a queue needs none of it, and imports this anew.
if __name__ != "__mp_main__":
    import megatron.core
    import megatron_rank as rank_files
    import megatron_te
    import ranks
    import torch
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
        get_transformer_block_with_experimental_attention_variant_spec,
    )
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig

    # Compiling what runs once takes longer than running it.
    torch._dynamo.config.disable = True
    # Writers wait for "the current device", whatever their tensors lie on.
    torch.cuda.synchronize = lambda *device: None
    megatron_te.install()
    # What a machine has, and no checkpoint: fusions need CUDA.
    ON_CPU = {
        "use_cpu_initialization": True, "hidden_dropout": 0.0, "attention_dropout": 0.0, "masked_softmax_fusion": False,
        "bias_activation_fusion": False, "bias_dropout_fusion": False, "apply_rope_fusion": False, "gradient_accumulation_fusion": False,
        "persist_layer_norm": False, "params_dtype": torch.float32, "pipeline_dtype": torch.float32,
        "moe_token_dispatcher_type": "allgather", "moe_router_load_balancing_type": "none",
    }  # fmt: skip
# What Transformer Engine fuses Megatron's own layers have apart.
OWN_NAMES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
OWN = re.compile("|".join(map(re.escape, OWN_NAMES)))


def answer(
    run: Callable[[dict[str, Any]], dict[str, Any]], rank: str, world_size: str, meeting_file: str, tasks: str, results: str
) -> None:
    """Join the world, run every task, and write what came of them, errors too."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_file}", rank=int(rank), world_size=int(world_size), timeout=timedelta(seconds=60)
    )
    answers: dict[str, Any] = {"version": megatron.core.__version__}
    for task in json.loads(Path(tasks).read_text()):
        try:
            answers[task["name"]] = run(task)
        except BaseException:  # torch's own is no Exception
            answers[task["name"]] = {"error": traceback.format_exc()}
        parallel_state.destroy_model_parallel()
    Path(results).write_text(json.dumps(answers))
    torch.distributed.destroy_process_group()


def run(task: dict[str, Any]) -> dict[str, Any]:
    if "latent" in task:
        return keys_of(task["latent"])
    layout = {"tp": 1, "pp": 1, "ep": 1, "vpp": None, **task["layout"]}
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout["tp"],
        pipeline_model_parallel_size=layout["pp"],
        virtual_pipeline_model_parallel_size=layout["vpp"],
        expert_model_parallel_size=layout["ep"],
        expert_tensor_parallel_size=layout.get("etp", layout["tp"]),
    )
    tensor_parallel.get_cuda_rng_tracker().fork = rank_files._no_fork
    torch.manual_seed(7)
    if "args" in task:
        return begin(task, layout)
    if "again" not in task:
        return run_ranks(task, layout)
    folder = iteration_of(Path(task["checkpoint"]))
    common = dist_checkpointing.load_common_state_dict(str(folder))
    args, metadata = at(common["args"], layout), dist_checkpointing.load_content_metadata(preloaded_state_dict=common)
    chunks = [build(args, None if layout["vpp"] is None else number) for number in range(layout["vpp"] or 1)]
    wanted = sharded(chunks, metadata)
    names = sorted(wanted)
    can_verify = "verify_integrity" in signature(dist_checkpointing.load).parameters
    loaded = dist_checkpointing.load(wanted, str(folder), **({"verify_integrity": True} if task["hashed"] and can_verify else {}))
    for name, chunk in zip(names, chunks, strict=True):
        chunk.load_state_dict(loaded[name], strict=True)
    if task["local"]:
        chunks = [in_own_modules(chunk, args) for chunk in chunks]
    save(Path(task["again"]), chunks, args, {**metadata, **({"singleton_local_shards": True} if task.get("single") else {})})
    return {"logits": logits_of(chunks, task, args), "progress": progress_of(common)}


def progress_of(common: dict[str, Any]) -> dict[str, Any]:
    """Where training goes on with --no-load-optim --no-load-rng (megatron/training/checkpointing.py, load_checkpoint)."""
    counts = {name: getattr(common["args"], name, 0) for name in ("consumed_train_samples", "consumed_valid_samples")}
    return {"iteration": common["iteration"], "checkpoint_version": common["checkpoint_version"], **counts}


def begin(task: dict[str, Any], layout: dict[str, Any]) -> dict[str, Any]:
    """A model that training begins with and saves."""
    args, metadata = at(Namespace(**task["args"]), layout), task["content"]
    chunks = [build(args, None if layout["vpp"] is None else number) for number in range(layout["vpp"] or 1)]
    held = sharded(chunks, metadata)
    apply_factories(held)
    for each in nested_values(held):
        if isinstance(each, ShardedTensor):
            each.data.data.copy_(ranks.values_of(each.key, tuple(each.global_shape))[each.global_slice()])
    save(Path(task["again"]), chunks, args, metadata, hashed=task["hashed"])
    return {"logits": logits_of(chunks, task, args)}


def run_ranks(task: dict[str, Any], layout: dict[str, Any]) -> dict[str, Any]:
    """This rank's own file, loaded strictly: names and shapes."""
    iteration = iteration_of(Path(task["checkpoint"]))
    args = rank_files.load(sorted(iteration.glob("mp_rank_*"))[0])["args"]
    content = rank_files.load(iteration / rank_files.rank_directory(args))
    chunks = [build(at(args, layout), None if layout["vpp"] is None else number) for number in range(layout["vpp"] or 1)]
    names = sorted(name for name in content if name.startswith("model"))
    mismatch = [each for name, chunk in zip(names, chunks, strict=True) for each in rank_files.load_strictly(chunk, content[name])]
    return {"mismatch": mismatch, "logits": logits_of(chunks, task, args)}


def logits_of(chunks: list[Any], task: dict[str, Any], args: Namespace) -> Any:
    for chunk in chunks:  # what MTP layers compute is for training alone, which has labels
        chunk.mtp_process, chunk.config.mtp_num_layers = False, None
    return rank_files.forward(chunks, torch.tensor(task["tokens"]), args)


def sharded(chunks: list[Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """As megatron/training/checkpointing.py, generate_state_dict: all chunks by the same global keys."""
    if len(chunks) == 1:
        return {"model": chunks[0].sharded_state_dict(metadata=dict(metadata))}
    return {f"model{number}": chunk.sharded_state_dict(metadata=dict(metadata)) for number, chunk in enumerate(chunks)}


def config_of(args: Namespace) -> TransformerConfig:
    """As megatron/training/arguments.py, core_transformer_config_from_args: every field that args have by its name, and those by others."""
    kind = MLATransformerConfig if getattr(args, "multi_latent_attention", False) else TransformerConfig
    given = {each.name: getattr(args, each.name) for each in fields(kind) if hasattr(args, each.name)}
    given |= {
        "layernorm_zero_centered_gamma": getattr(args, "apply_layernorm_1p", False),
        "layernorm_epsilon": args.norm_epsilon,
        "num_moe_experts": getattr(args, "num_experts", None),
        "num_query_groups": args.num_query_groups if getattr(args, "group_query_attention", False) else None,
        "gated_linear_unit": args.swiglu,
        "activation_func": torch.nn.functional.silu,
        "deterministic_mode": True,
    }
    return kind(**given | ON_CPU)


def build(args: Namespace, chunk: int | None) -> Any:
    """The model chunk that training builds from these args on this rank, by its layer specs for Transformer Engine."""
    config = config_of(args)
    if config.experimental_attention_variant:
        layers = get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage=chunk)
    else:
        layers = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=chunk)
    mtp = get_gpt_mtp_block_spec(config, layers, use_transformer_engine=True, vp_stage=chunk) if config.mtp_num_layers else None
    more = {"rotary_percent": getattr(args, "rotary_percent", 1.0), "mtp_block_spec": mtp}
    return rank_files.gpt(config, layers, args, chunk, **more).eval()


def in_own_modules(model: Any, args: Namespace) -> Any:
    """The same model of Megatron's own modules, whose keys differ in part."""
    own = rank_files.build(args, None)
    held = {OWN.sub(lambda match: OWN_NAMES[match[0]], name): each for name, each in model.state_dict().items() if each is not None}
    own.load_state_dict(held, strict=False)
    assert not set(dict(own.named_parameters())) - set(held)
    return own


def keys_of(args: dict[str, Any]) -> dict[str, Any]:
    """What a model with latent attention, whose heads 0.16.1 cannot run on CPUs, asks for: keys with whole shapes, and objects."""
    parallel_state.initialize_model_parallel()
    tensor_parallel.get_cuda_rng_tracker().fork = rank_files._no_fork
    for name in ("TELinear", "TEColumnParallelLinear"):  # None without Transformer Engine, and compared as types
        setattr(multi_latent_attention, name, type(name, (), {}))
    build = DotProductAttention.__init__

    def of_equal_heads(self: Any, *given: Any, k_channels: Any = None, v_channels: Any = None, **named: Any) -> None:
        build(self, *given, **named)

    DotProductAttention.__init__ = of_equal_heads
    config = MLATransformerConfig(
        activation_func=torch.nn.functional.silu, use_cpu_initialization=True, params_dtype=torch.float32, persist_layer_norm=False, **args
    )
    layers = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization="RMSNorm")
    mtp = get_gpt_mtp_block_spec(config, layers, use_transformer_engine=False)
    model = GPTModel(
        config,
        layers,
        vocab_size=12,
        max_sequence_length=64,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        mtp_block_spec=mtp,
    )
    asked = model.sharded_state_dict(metadata={})
    apply_factories(asked)
    found = list(nested_values(asked))
    return {
        "keys": {each.key: list(each.global_shape) for each in found if isinstance(each, ShardedTensor)},
        "objects": [each.unique_key for each in found if isinstance(each, ShardedObject)],
    }


def at(args: Namespace, layout: dict[str, Any]) -> Namespace:
    """The args at a layout of this world: checkpoints are of any."""
    args.tensor_model_parallel_size, args.pipeline_model_parallel_size = layout["tp"], layout["pp"]
    args.expert_model_parallel_size, args.expert_tensor_parallel_size = layout["ep"], layout.get("etp", layout["tp"])
    args.virtual_pipeline_model_parallel_size = layout["vpp"]
    return args


def save(directory: Path, chunks: list[Any], args: Namespace, metadata: dict[str, Any], *, hashed: bool = False) -> None:
    """As megatron/training/checkpointing.py, generate_state_dict: rank-independent objects beside sharded tensors, and a random state."""
    content = {"args": args, "checkpoint_version": 3.0, "iteration": 3, "content_metadata": metadata}
    content |= sharded(chunks, metadata)
    content["rng_state"] = dist_checkpointing.mapping.ShardedObject(
        "rng_state", {"torch": torch.get_rng_state()}, (torch.distributed.get_world_size(),), (torch.distributed.get_rank(),)
    )
    folder = directory / "iter_0000003"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    can_hash = "verify_integrity" in signature(dist_checkpointing.save).parameters
    dist_checkpointing.save(content, str(folder), **({"verify_integrity": True} if hashed and can_hash else {}))
    (directory / "latest_checkpointed_iteration.txt").write_text("3")


def iteration_of(directory: Path) -> Path:
    said = (directory / "latest_checkpointed_iteration.txt").read_text()
    return directory / ("release" if said == "release" else f"iter_{int(said):07d}")


if __name__ == "__main__":
    answer(run, *sys.argv[1:])
