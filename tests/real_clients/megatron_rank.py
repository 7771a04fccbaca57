"""One rank of a Megatron world on CPUs: builds the models that checkpoints' saved args describe, loads their files, runs them.

    python megatron_rank.py RANK WORLD_SIZE MEETING_FILE TASKS.json RESULTS.json

A program of its own, as Megatron keeps its groups in globals and warns on import. A task is {"name", "checkpoint", "tokens", "saved"};
what comes of each goes to RESULTS.json: "error", or the names that do not match and, from the last stage, the logits. The loaded models
are saved at "saved" as training saves them. A task with "pipelines" asks how each of them is cut.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from argparse import Namespace
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import torch  # noqa: E402 - megatron warns on import
import torch.nn.functional as F  # noqa: E402
from megatron.core import parallel_state, tensor_parallel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # noqa: E402
from megatron.core.models.gpt.gpt_model import GPTModel  # noqa: E402
from megatron.core.transformer.enums import AttnBackend  # noqa: E402
from megatron.core.transformer.moe import moe_utils  # noqa: E402 - megatron warns on import
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from megatron_pipelines import table  # noqa: E402  its folder is on the path only from here on

# Training's own names of what a model is; its other args are the fields of TransformerConfig.
ARCHITECTURE = (
    "num_query_groups", "group_query_attention", "kv_channels", "num_experts", "padded_vocab_size", "swiglu", "norm_epsilon",
    "position_embedding_type", "rotary_base", "untie_embeddings_and_output_weights", "max_position_embeddings", "transformer_impl",
    "virtual_pipeline_model_parallel_size", "num_layers_per_virtual_pipeline_stage",
)  # fmt: skip


class GroupedGemm:
    """What the CUDA kernel computes: each expert's run of tokens times its matrix."""

    @staticmethod
    def gmm(tokens: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor, trans_b: bool = False) -> torch.Tensor:
        assert not trans_b
        runs = tokens.split(counts.tolist())
        return torch.cat([run @ weight for run, weight in zip(runs, weights, strict=True)])


if find_spec("megatron.core.transformer.moe.grouped_gemm_util"):  # until 0.16
    grouped_gemm_util = import_module("megatron.core.transformer.moe.grouped_gemm_util")
    grouped_gemm_util.assert_grouped_gemm_is_available = lambda: None
    grouped_gemm_util.ops = GroupedGemm
# Without Transformer Engine, 0.16.1 never binds the name that it compares with None.
moe_utils.te_general_gemm = None
# Where Megatron asks for "the current device" whatever its tensors lie on.
torch.cuda.current_device = lambda: torch.device("cpu")
torch.Tensor.cuda = lambda self: self


def main(rank: int, world_size: int, meeting_file: str, tasks: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    answers: dict[str, Any] = {}
    for task in json.loads(Path(tasks).read_text()):
        if "pipelines" in task:
            answers[task["name"]] = [table(**each) for each in task["pipelines"]]
            continue
        try:
            answers[task["name"]] = run(Path(task["checkpoint"]), torch.tensor(task["tokens"]), Path(task["saved"]))
        except Exception:
            answers[task["name"]] = {"error": traceback.format_exc()}
        parallel_state.destroy_model_parallel()
    Path(results).write_text(json.dumps(answers))
    torch.distributed.destroy_process_group()


def run(checkpoint: Path, tokens: torch.Tensor, saved: Path) -> dict[str, Any]:
    iteration = f"iter_{int((checkpoint / 'latest_checkpointed_iteration.txt').read_text()):07d}"
    args = load(next(iter(sorted((checkpoint / iteration).iterdir()))))["args"]
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=getattr(args, "virtual_pipeline_model_parallel_size", None),
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size,
    )
    # Its own generators need CUDA; nothing random happens at dropout 0.
    tensor_parallel.get_cuda_rng_tracker().fork = _no_fork
    content = load(checkpoint / iteration / rank_directory(args))
    chunks, mismatch = [], []
    for number, key in enumerate(sorted(name for name in content if name.startswith("model"))):
        chunks.append(build(args, number if key != "model" else None))
        mismatch += load_strictly(chunks[-1], content[key])
    save_as_training(saved, rank_directory(args), args, chunks)
    return {"mismatch": mismatch, "logits": forward(chunks, tokens, args)}


def load_strictly(model: Any, stored: dict[str, torch.Tensor]) -> list[str]:
    """Load as training does; returns names with shapes that only one side has.

    Megatron's hooks accept checkpoints without `_extra_state` (of quantised layers); all else must match, both ways.
    """
    model.load_state_dict(stored, strict=True)
    have = {(name, tuple(tensor.shape)) for name, tensor in stored.items()}
    want = {(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items() if not name.endswith("_extra_state")}
    return sorted(map(str, have ^ want))


def save_as_training(directory: Path, rank: str, args: Namespace, chunks: list[Any]) -> None:
    """As megatron/training/checkpointing.py, save_checkpoint with --ckpt-format torch: optimizer and all, Megatron's names only."""
    trained = {name: value for name, value in vars(args).items() if name in ARCHITECTURE or hasattr(TransformerConfig, name)}
    trained |= {"params_dtype": torch.float32, "attention_backend": AttnBackend.auto, "rank": torch.distributed.get_rank(), "iteration": 7}
    models = {"model" if len(chunks) == 1 else f"model{number}": chunk.state_dict() for number, chunk in enumerate(chunks)}
    moments = {number: {"exp_avg": torch.ones_like(weight)} for number, weight in enumerate(chunks[0].parameters())}
    content = {"args": Namespace(**trained), "checkpoint_version": 3.0, "iteration": 7, **models}
    content |= {"optimizer": {"optimizer": {"state": moments}}, "rng_state": [{"cpu_rng_state": torch.get_rng_state()}]}
    (directory / "iter_0000007" / rank).mkdir(parents=True, exist_ok=True)
    torch.save(content, directory / "iter_0000007" / rank / "model_optim_rng.pt")
    (directory / "latest_checkpointed_iteration.txt").write_text("7")


def _no_fork(name: str = "") -> Any:
    import contextlib

    return contextlib.nullcontext()


def load(directory: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([Namespace]):
        return dict(torch.load(directory / "model_optim_rng.pt", weights_only=True, mmap=True))


def rank_directory(args: Namespace) -> str:
    """As megatron/training/checkpointing.py, get_checkpoint_name."""
    name = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
    if args.pipeline_model_parallel_size > 1:
        name += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}"
    if args.expert_model_parallel_size > 1:
        name += f"_{parallel_state.get_expert_model_parallel_rank():03d}"
    return name


def build(args: Namespace, chunk: int | None) -> Any:
    """The model chunk that training builds from these args on this rank; `chunk` is None without virtual stages."""
    config = config_of(args)
    spec = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization=args.normalization, vp_stage=chunk)
    model = gpt(config, spec, args, chunk)
    # Grouped GEMM asks for bf16 only because its kernel does.
    model.config.bf16 = True
    return model.eval()


def gpt(config: Any, spec: Any, args: Namespace, chunk: int | None, **more: Any) -> Any:
    """Megatron's model of this spec as training makes it from the args; `more` goes to its constructor."""
    return GPTModel(
        config,
        spec,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=chunk),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=chunk),
        parallel_output=False,
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type=args.position_embedding_type,
        rotary_base=args.rotary_base,
        vp_stage=chunk,
        **more,
    )


def config_of(args: Namespace) -> TransformerConfig:
    """As megatron/training/arguments.py, core_transformer_config_from_args; without fusions, which need CUDA."""
    return TransformerConfig(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=args.num_attention_heads,
        num_query_groups=args.num_query_groups if args.group_query_attention else args.num_attention_heads,
        kv_channels=args.kv_channels,
        layernorm_epsilon=args.norm_epsilon,
        normalization=args.normalization,
        qk_layernorm=getattr(args, "qk_layernorm", False),
        add_bias_linear=args.add_bias_linear,
        add_qkv_bias=getattr(args, "add_qkv_bias", False),
        gated_linear_unit=args.swiglu,
        activation_func=F.silu,
        tensor_model_parallel_size=args.tensor_model_parallel_size,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=getattr(args, "virtual_pipeline_model_parallel_size", None),
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
        **experts_of(args),
    )


def experts_of(args: Namespace) -> dict[str, Any]:
    if not getattr(args, "num_experts", None):
        return {}
    legacy = {"moe_use_legacy_grouped_gemm": args.moe_grouped_gemm} if hasattr(TransformerConfig, "moe_use_legacy_grouped_gemm") else {}
    return {
        **legacy,
        "num_moe_experts": args.num_experts,
        "moe_ffn_hidden_size": args.moe_ffn_hidden_size,
        "moe_router_topk": args.moe_router_topk,
        "moe_router_pre_softmax": False,  # softmax over the chosen ones is what norm_topk_prob asks for
        "moe_layer_freq": args.moe_layer_freq,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "allgather",
        "moe_grouped_gemm": args.moe_grouped_gemm,
        "expert_model_parallel_size": args.expert_model_parallel_size,
        "expert_tensor_parallel_size": args.expert_tensor_parallel_size,
    }


def forward(chunks: list[Any], tokens: torch.Tensor, args: Namespace) -> list[Any] | None:
    """The logits, on the ranks of the last stage. Stages and chunks take turns; what one computes all get."""
    batch, length = tokens.shape
    positions = torch.arange(length).unsqueeze(0)
    masked = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)[None, None]
    stages, stage = args.pipeline_model_parallel_size, parallel_state.get_pipeline_model_parallel_rank()
    hidden, output = torch.empty(length, batch, args.hidden_size), None
    for turn in range(stages * len(chunks)):
        last = turn == stages * len(chunks) - 1
        if turn % stages == stage:
            model = chunks[turn // stages]
            model.set_input_tensor(None if turn == 0 else hidden)
            with torch.no_grad():
                output = model(tokens, positions, masked)
        if stages > 1 and not last:
            hidden = output.contiguous() if turn % stages == stage else torch.empty_like(hidden)
            torch.distributed.broadcast(hidden, src=turn % stages)
    return output.tolist() if stage == stages - 1 else None


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
