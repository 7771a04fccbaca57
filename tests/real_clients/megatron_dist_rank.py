"""One rank of a Megatron world on CPUs which saves and loads distributed checkpoints (torch_dist), and runs the models that are in them.

    python megatron_dist_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A task {"name", "latent"} asks for the keys of a model of these args, with their whole shapes, and for its objects. Any other is {"name",
"checkpoint", "tokens", "layout": {"tp", "pp", "ep", "etp"}, "again", "local"}: the checkpoint is loaded at the layout, with Megatron's
default strictness, and saved again at "again", by the names of Megatron's own modules if "local". What comes of each goes to
RESULTS.json: "error", or the logits from the last stage.
"""

from __future__ import annotations

import json
import sys
import traceback
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

# The process that Megatron starts for a queue needs none of it, and imports this anew.
if __name__ != "__mp_main__":
    import megatron_rank as rank_files
    import torch
    from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.moe.moe_layer import MoELayer
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    # Writers wait for "the current device", whatever their tensors lie on.
    torch.cuda.synchronize = lambda *device: None
# Transformer Engine fuses no norm with a router (gpt_layer_specs.py); Megatron's own layers say that it is linear_fc1's.
TRANSFORMER_ENGINE = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
LOCAL = {**TRANSFORMER_ENGINE, "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}


def main(rank: int, world_size: int, meeting_file: str, tasks: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    answers: dict[str, Any] = {}
    for task in json.loads(Path(tasks).read_text()):
        try:
            answers[task["name"]] = keys_of(task["latent"]) if "latent" in task else run(task)
        except BaseException:  # torch's own is no Exception
            answers[task["name"]] = {"error": traceback.format_exc()}
        parallel_state.destroy_model_parallel()
    Path(results).write_text(json.dumps(answers))
    torch.distributed.destroy_process_group()


def run(task: dict[str, Any]) -> dict[str, Any]:
    layout = {"tp": 1, "pp": 1, "ep": 1, **task["layout"]}
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout["tp"],
        pipeline_model_parallel_size=layout["pp"],
        expert_model_parallel_size=layout["ep"],
        expert_tensor_parallel_size=layout.get("etp", layout["tp"]),
    )
    tensor_parallel.get_cuda_rng_tracker().fork = rank_files._no_fork
    torch.manual_seed(7)
    folder = iteration_of(Path(task["checkpoint"]))
    common = dist_checkpointing.load_common_state_dict(str(folder))
    args, metadata = at(common["args"], layout), dist_checkpointing.load_content_metadata(preloaded_state_dict=common)
    model = rank_files.build(args, None)
    named(model, TRANSFORMER_ENGINE)
    loaded = dist_checkpointing.load({"model": model.sharded_state_dict(metadata=dict(metadata))}, str(folder))
    model.load_state_dict(loaded["model"], strict=True)
    if task["local"]:
        named(model, LOCAL)
    save(Path(task["again"]), model, args, dict(metadata))
    return {"logits": rank_files.forward([model], torch.tensor(task["tokens"]), args)}


def named(model: Any, of_experts: dict[str, str]) -> None:
    """Gives the norms of layers with experts their keys."""
    for layer in model.decoder.layers:
        if isinstance(layer.mlp, MoELayer):
            layer.submodules_config.sharded_state_dict_keys_map = of_experts


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
    return args


def save(directory: Path, model: Any, args: Namespace, metadata: dict[str, Any]) -> None:
    """As megatron/training/checkpointing.py, generate_state_dict: rank-independent objects beside sharded tensors, and a random state."""
    content = {"args": args, "checkpoint_version": 3.0, "iteration": 3, "content_metadata": metadata}
    content["model"] = model.sharded_state_dict(metadata=dict(metadata))
    content["rng_state"] = dist_checkpointing.mapping.ShardedObject(
        "rng_state", {"torch": torch.get_rng_state()}, (torch.distributed.get_world_size(),), (torch.distributed.get_rank(),)
    )
    folder = directory / "iter_0000003"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    dist_checkpointing.save(content, str(folder))
    (directory / "latest_checkpointed_iteration.txt").write_text("3")


def iteration_of(directory: Path) -> Path:
    said = (directory / "latest_checkpointed_iteration.txt").read_text()
    return directory / ("release" if said == "release" else f"iter_{int(said):07d}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
