"""The `args` in a new rank file: what training and the way back read from it (`saved_layout.py`).

Written are the configuration's own scalars (Hugging Face's names), Megatron's names for the same, and the layout. No paths: a
checkpoint does not tell where it was made.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from convsvc.dialects.mcore import args_digest
from convsvc.dialects.mcore.architecture import architecture_args
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.settings import Settings
from convsvc.models.describe import dtype_words, reduce_lists
from convsvc.models.facts import Facts
from convsvc.models.model import Model

# Hugging Face's name of the dtype is a string in every configuration; Megatron's params_dtype is an object and is left to training.
PLAIN = (bool, int, float, str, type(None))
# Stated only by layouts that have them: a source's own would be taken for the target's.
SOMETIMES = (
    "num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "virtual_pipeline_model_parallel_size", "vpp_size",
    "num_layer_list", "noop_layers", "schedules_method", "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers",
    "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage", "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split", "pipeline_model_parallel_layout", "transformer_pipeline_model_parallel_size",
    "make_vocab_size_divisible_by", args_digest.NAME,
)  # fmt: skip


# What a training run's own args say of its machine and not of its model.
OF_A_RUN = re.compile(
    r"^(rank|world_size|local_rank|data_parallel_size|save|load|.*_(dir|path|prefix|file|url)|data_(path|cache_path)|.*host.*|.*_(addr|port)|"
    r"wandb_.*|tensorboard_.*|iteration|consumed_.*_samples|skipped_train_samples|seed|exit_.*)$"
)


def compose_args(
    model: Model, settings: Settings, facts: Facts, dtypes: Mapping[str, int] | None = None, own: Mapping[str, Any] | None = None
) -> Namespace:
    """The Namespace for a new checkpoint. `dtypes`: how many bytes of each dtype it holds; `own`: a framework's beside Megatron's."""
    args = {name: value for name, value in facts.values.items() if _is_plain(value) and _is_of_the_model(name, value)}
    args |= reduce_lists(args, model.kept, model.hidden_layers)
    args |= architecture_args(model, facts) | dict(model.family.megatron) | _layout_args(model, settings) | dict(own or {})
    args |= dtype_words(args, dtypes or {})
    return Namespace(**dict(sorted({**args, args_digest.NAME: args_digest.digest_of(args)}.items())))


def _is_of_the_model(name: str, value: Any) -> bool:
    is_path = isinstance(value, str) and value.startswith(("/", "./", "../"))
    return not (name.startswith("_") or name in SOMETIMES or OF_A_RUN.match(name) or is_path)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, PLAIN)


def _layout_args(model: Model, settings: Settings) -> dict[str, Any]:
    parallel = settings.parallel
    placement = place_layers(model.num_layers, parallel)
    args: dict[str, Any] = {
        "num_layers": placement.positions,
        "padded_vocab_size": settings.padded_vocab,
        "tensor_model_parallel_size": parallel.tp,
        "pipeline_model_parallel_size": parallel.pp,
        "expert_model_parallel_size": parallel.ep,
        "expert_tensor_parallel_size": parallel.etp,
        "moe_grouped_gemm": settings.grouped_gemm,
        "mtp_num_layers": model.num_mtp,
        "mtp_copies": None if model.copies is None else list(model.copies),
        "transformer_impl": "transformer_engine" if settings.transformer_engine else "local",
    }
    if settings.vocab_divisor is not None:
        args["make_vocab_size_divisible_by"] = settings.vocab_divisor
    if placement.chunks is not None:
        args["virtual_pipeline_model_parallel_size"] = placement.chunks
    if parallel.layers_per_virtual_stage is not None or parallel.dualpipev:
        args["num_layers_per_virtual_pipeline_stage"] = placement.positions // parallel.pp // (placement.chunks or 1)
    elif placement.chunks is not None and parallel.pattern is None:
        args["num_virtual_stages_per_pipeline_rank"] = placement.chunks
    return args | _uneven_stages(parallel)


def _uneven_stages(parallel: Parallel) -> dict[str, Any]:
    """Training's own names of how its stages differ."""
    args: dict[str, Any] = {
        "decoder_first_pipeline_num_layers": parallel.first_layers,
        "decoder_last_pipeline_num_layers": parallel.last_layers,
        "account_for_embedding_in_pipeline_split": parallel.embedding_counts or None,
        "account_for_loss_in_pipeline_split": parallel.output_counts or None,
        "pipeline_model_parallel_layout": None if parallel.pattern is None else "|".join(parallel.pattern),
    }
    return {name: value for name, value in args.items() if value is not None}
