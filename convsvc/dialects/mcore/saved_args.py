"""The `args` in a new rank file: what training and the way back read from it (`saved_layout.py`).

Written are the configuration's own scalars (Hugging Face's names), Megatron's names for the same, and the layout. No paths: a
checkpoint does not tell where it was made.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from convsvc.blocks.dsa import INDEX_KEY
from convsvc.blocks.glu import FC1_BIAS
from convsvc.blocks.gqa import QKV_BIAS
from convsvc.blocks.moe import TOKEN_EXPERTS
from convsvc.dialects.mcore import args_digest
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.settings import Settings
from convsvc.models.describe import dtype_words, reduce_lists
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.rope import rope_base
from convsvc.models.words import EPSILON

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


def write_args(model: Model, settings: Settings, facts: Facts, dtypes: Mapping[str, int] | None = None) -> Namespace:
    """The Namespace for a new checkpoint. `dtypes`: how many bytes of each dtype it holds."""
    args = {name: value for name, value in facts.values.items() if _is_plain(value) and _is_of_the_model(name, value)}
    args |= reduce_lists(args, model.kept, model.hidden_layers)
    args |= _architecture(model, facts) | dict(model.family.megatron) | _biases(model) | _layout_args(model, settings)
    args |= dtype_words(args, dtypes or {})
    return Namespace(**dict(sorted({**args, args_digest.NAME: args_digest.digest_of(args)}.items())))


def _biases(model: Model) -> dict[str, Any]:
    """Megatron's switches for the biases that the layers have; one that the family always sets is not its layers' to unset."""
    held = frozenset[str]().union(*(scope.logicals for scope in model.layers()))
    biases = {"add_qkv_bias": QKV_BIAS.name in held, "add_bias_linear": FC1_BIAS.name in held}
    return {name: True for name, there in biases.items() if there}


def _is_of_the_model(name: str, value: Any) -> bool:
    is_path = isinstance(value, str) and value.startswith(("/", "./", "../"))
    return not (name.startswith("_") or name in SOMETIMES or OF_A_RUN.match(name) or is_path)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, PLAIN)


def _architecture(model: Model, facts: Facts) -> dict[str, Any]:
    sizes = model.sizes
    base, epsilon = rope_base(facts), EPSILON.said(facts)
    args: dict[str, Any] = {
        "model_type_hf": model.family.name,
        "num_hidden_layers": model.num_layers,
        "hidden_size": sizes["hidden"],
        "num_attention_heads": facts.get("num_attention_heads"),
        "vocab_size": sizes["vocab"],
        "tie_word_embeddings": model.tied,
        "untie_embeddings_and_output_weights": not model.tied,
        "max_position_embeddings": facts.get("max_position_embeddings", default=None),
        "norm_epsilon": None if epsilon is None else epsilon.value,
        "normalization": "RMSNorm",
        "swiglu": True,
        "add_bias_linear": False,
        "position_embedding_type": "rope",
        "use_rotary_position_embeddings": True,
    }
    if base is not None:
        args["rotary_base"] = base
    if "group" in sizes:
        args |= {
            "num_key_value_heads": sizes["group"],
            "num_query_groups": sizes["group"],
            "group_query_attention": sizes["query"] > 1,
            "kv_channels": sizes["head_dim"],
        }
    if "ffn" in sizes:
        args["ffn_hidden_size"] = sizes["ffn"]
    if "expert" in sizes:
        args |= {"num_experts": sizes["expert"], "moe_ffn_hidden_size": sizes["expert_ffn"]}
        args["moe_router_topk"] = facts.get("num_experts_per_tok", "moe_topk", "moe_router_topk", default=None)
        args["moe_layer_freq"] = [0 if scope.dense else 1 for scope in model.layers()]
        if "first_k_dense_replace" in facts.values:
            args["first_k_dense_replace"] = sum(scope.dense for scope in model.layers())
    if "kv_rank" in sizes:
        args |= _latent_attention(sizes)
    indexed = [INDEX_KEY.name in scope.logicals for scope in model.layers()]
    if any(indexed):
        args["indexer_types"] = ["full" if each else "shared" for each in indexed]
    if "stream" in sizes:
        args |= _compressed_attention(model)
    if "mamba_group" in sizes:
        args |= _mixers(sizes)
    if sizes.get("shared_ffn"):
        args["moe_shared_expert_intermediate_size"] = sizes["shared_ffn"]
    return {name: value for name, value in args.items() if value is not None}


def _latent_attention(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Megatron's names (megatron/core/transformer/transformer_config.py, MLATransformerConfig); qk_head_dim is without the rotary part."""
    return {
        "q_lora_rank": sizes.get("q_rank"),
        "kv_lora_rank": sizes["kv_rank"],
        "qk_head_dim": sizes["nope_dim"],
        "qk_nope_head_dim": sizes["nope_dim"],
        "qk_pos_emb_head_dim": sizes["rope_dim"],
        "qk_rope_head_dim": sizes["rope_dim"],
        "v_head_dim": sizes["value_dim"],
    }


def _compressed_attention(model: Model) -> dict[str, Any]:
    """What DeepSeek-V4's configuration says layer by layer, of the layers that are here or beside; MTP layers come last."""
    layers = [scope for scope in (*model.scopes, *model.beside) if scope.kind in ("layer", "mtp_block")]
    by_token = sum(TOKEN_EXPERTS.name in scope.logicals for scope in layers)
    return {"compress_ratios": [scope.sizes["ratio"] for scope in layers], "num_hash_layers": by_token, "n_hash_layers": by_token}


def _mixers(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Hugging Face's names and Megatron's (megatron/core/transformer/transformer_config.py, mamba_*)."""
    heads = sizes["mamba_group"] * sizes["mamba_head"]
    return {
        "state_size": sizes["state"],
        "mamba_state_dim": sizes["state"],
        "n_groups": sizes["mamba_group"],
        "mamba_num_groups": sizes["mamba_group"],
        "head_dim": sizes["mamba_dim"],
        "mamba_head_dim": sizes["mamba_dim"],
        "num_heads": heads,
        "mamba_num_heads": heads,
        "conv_kernel": sizes["conv_kernel"],
    }


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
        "moe_tp_extend_ep": parallel.extend_ep,
        "mla_mm_split": settings.mla_mm_split,
        "mtp_num_layers": model.num_mtp,
        "mtp_copies": None if model.copies is None else list(model.copies),
        "transformer_impl": "transformer_engine" if settings.transformer_engine else "local",
    }
    if settings.vocab_divisor is not None:
        args["make_vocab_size_divisible_by"] = settings.vocab_divisor
    if placement.chunks is not None:
        args["virtual_pipeline_model_parallel_size"] = placement.chunks
        args["vpp_size"] = placement.chunks
    if parallel.layers_per_virtual_stage is not None or parallel.dualpipev:
        args["num_layers_per_virtual_pipeline_stage"] = placement.positions // parallel.pp // (placement.chunks or 1)
    elif placement.chunks is not None and parallel.pattern is None:
        args["num_virtual_stages_per_pipeline_rank"] = placement.chunks
    args |= _uneven_stages(parallel)
    if parallel.layer_list is not None:
        args["num_layer_list"] = ",".join(map(str, parallel.layer_list))
    if parallel.noop:
        args["noop_layers"] = ",".join(map(str, parallel.noop))
    if parallel.dualpipev:
        args["schedules_method"] = "dualpipev"
    return args


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
