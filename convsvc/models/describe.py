"""A model in the words of its Hugging Face configuration: the way back from sizes and rows to fields. Pure.

Whoever writes a configuration from these words builds the model from it once more and compares, so a word that is wrong here cannot
become a checkpoint's. A family whose configuration has other fields than the usual ones says so in `Family.names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convsvc.blocks.dsa import INDEX_KEY
from convsvc.blocks.embeddings import OUTPUT_BIAS_ROWS
from convsvc.blocks.linear_attention import DELTA_OUT
from convsvc.blocks.mamba import MIXER_BIASES, MIXER_CONV_BIAS
from convsvc.blocks.moe import TOKEN_EXPERTS
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.models.scope import DECODER

Words = dict[str, Any]
# What a family's configuration calls these where `Family.names` does not say; a family without shared experts has no name for them.
NAMES: Mapping[str, str] = {
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
    "heads": "num_attention_heads",
    "groups": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "experts": "num_experts",
    "expert_ffn": "moe_intermediate_size",
    "epsilon": "rms_norm_eps",
    "chosen": "num_experts_per_tok",
    "activation": "hidden_act",
}
TORCH_DTYPES: Mapping[str, str] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# Fields with an entry for each layer; entries beyond the hidden layers are MTP layers'.
PER_LAYER = (
    "layer_types", "mlp_layer_types", "indexer_types", "compress_ratios", "moe_layer_freq", "no_rope_layers", "attn_type_list",
    "layers_block_type", "layer_type_list",
)  # fmt: skip
# Fields that list layers by their numbers.
LAYER_NUMBERS = ("mlp_only_layers", "attn_layer_indices", "full_attn_idxs")


def name_of(family: Family, what: str) -> str:
    """The field of the family's configuration; `what` is a key of NAMES, "shared", "dense" or "gate_and_up"."""
    return family.names.get(what) or NAMES[what]


def describe(model: Model) -> Words:
    """Every field of the configuration that the model's layout follows from."""
    family, sizes = model.family, model.sizes
    if not family.decoder:
        return {}
    words: Words = {name_of(family, "layers"): model.num_layers, "hidden_size": sizes["hidden"], name_of(family, "vocab"): sizes["vocab"]}
    for axis, of in BY_AXIS.items():
        if axis in sizes:
            words |= of(sizes, family)
    if family.names.get("dense"):
        words |= dense_words([scope.dense for scope in model.layers()], {family.names["dense"]: None})
    words |= _flags(model) | _by_layer(model)
    if family.mtp is not None:
        words[family.mtp.counts[0]] = model.num_mtp + model.carried_mtp
    return words | {"tie_word_embeddings": model.tied}


def dense_words(dense: Sequence[bool], said: Mapping[str, Any]) -> Words:
    """Which layers have no experts, in those of `said`'s fields that can say so.

    >>> dense_words([True, False, False], {"first_k_dense_replace": 3, "decoder_sparse_step": 2})
    {'first_k_dense_replace': 1, 'decoder_sparse_step': 1, 'mlp_only_layers': [0]}
    """
    words: Words = {}
    if "mlp_layer_types" in said:
        words["mlp_layer_types"] = ["dense" if each else "sparse" for each in dense]
    if isinstance(said.get("moe_layer_freq"), list):
        words["moe_layer_freq"] = [0 if each else 1 for each in dense]
    first = next((at for at, each in enumerate(dense) if not each), len(dense))
    if "first_k_dense_replace" in said:
        words["first_k_dense_replace"] = first
    if {"mlp_only_layers", "decoder_sparse_step"} & set(said):
        words |= {"decoder_sparse_step": 1, "mlp_only_layers": [at for at, each in enumerate(dense) if each]}
    elif any(dense[first:]) and "mlp_layer_types" not in words and "moe_layer_freq" not in words:
        words["moe_layer_freq"] = [0 if each else 1 for each in dense]
    return words


def dtype_words(values: Mapping[str, Any], sizes: Mapping[str, int]) -> Words:
    """The dtype that most bytes have, in those of `values`' fields that name another. `sizes`: bytes by dtype.

    >>> dtype_words({"torch_dtype": "float32", "bf16": False}, {"BF16": 100, "F32": 4})
    {'torch_dtype': 'bfloat16', 'bf16': True}
    """
    main = main_dtype(sizes)
    if main is None:
        return {}
    words: Words = {name: main for name in ("dtype", "torch_dtype") if values.get(name) is not None}
    words |= {name: main == dtype for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")) if values.get(name) is not None}
    return {name: value for name, value in words.items() if values[name] != value}


def main_dtype(sizes: Mapping[str, int]) -> str | None:
    """torch's name of the floating-point dtype that most bytes have; None where there is none."""
    floats = {dtype: sizes[dtype] for dtype in TORCH_DTYPES if sizes.get(dtype)}
    return TORCH_DTYPES[max(floats, key=lambda each: floats[each])] if floats else None


def reduce_lists(values: Mapping[str, Any], kept: Sequence[int], hidden_layers: int) -> Words:
    """The fields of `values`, a configuration of `hidden_layers`, that speak of layers one by one, for the kept ones only.

    >>> reduce_lists({"layer_types": ["a", "b", "c"], "mlp_only_layers": [0, 2]}, [0, 2], 3)
    {'layer_types': ['a', 'c'], 'mlp_only_layers': [0, 1]}
    """
    if tuple(kept) == tuple(range(hidden_layers)):
        return {}
    words: Words = {}
    for name in PER_LAYER:
        items = values.get(name)
        if isinstance(items, list | tuple) and len(items) >= hidden_layers:
            words[name] = [items[at] for at in kept] + list(items[hidden_layers:])
    for name in LAYER_NUMBERS:
        items = values.get(name)
        if isinstance(items, list | tuple):
            words[name] = [new for new, old in enumerate(kept) if old in items]
    return words


def _flags(model: Model) -> Words:
    """Whether the rows that a flag adds are there."""
    held = {row.stored for scope in model.scopes if scope.module == DECODER for row in scope.rows}
    flags = {flag if isinstance(flag, str) else flag[0]: rows for flag, rows in model.family.flags}
    if "mamba_group" in model.sizes:
        # The convolution's bias is there unless it is denied, so that the family's table has neither.
        flags |= {"use_conv_bias": MIXER_CONV_BIAS, "use_bias": MIXER_BIASES}
    words: Words = {flag: any(row.stored in held for row in rows) for flag, rows in flags.items()}
    return words | ({"lm_head_bias": True} if OUTPUT_BIAS_ROWS[0].stored in held else {})


def _by_layer(model: Model) -> Words:
    """What differs from layer to layer and shows in the tensors."""
    layers = model.layers()
    words: Words = {}
    indexed = [INDEX_KEY.name in scope.logicals for scope in layers]
    if any(indexed) and not all(indexed):
        words["indexer_types"] = ["full" if each else "shared" for each in indexed]
    linear = [DELTA_OUT.name in scope.logicals for scope in layers]
    if any(linear) or "key_head" in model.sizes:
        words["layer_types"] = ["linear_attention" if each else "full_attention" for each in linear]
    if "stream" in model.sizes:
        streamed = [scope for scope in model.scopes if scope.kind in ("layer", "mtp_block")]
        words["compress_ratios"] = [scope.sizes["ratio"] for scope in streamed]
        words["num_hash_layers"] = sum(TOKEN_EXPERTS.name in scope.logicals for scope in streamed)
    return words


def _grouped(sizes: Mapping[str, int], family: Family) -> Words:
    groups, head_dim = sizes["group"], sizes["head_dim"]
    heads = {name_of(family, "heads"): groups * sizes["query"]}
    return heads | {name_of(family, "groups"): groups, name_of(family, "head_dim"): head_dim}


def _latent(sizes: Mapping[str, int], family: Family) -> Words:
    return {
        "num_attention_heads": sizes["head"],
        "num_key_value_heads": sizes["head"],
        # Silence would mean the class's default.
        "q_lora_rank": sizes.get("q_rank"),
        "kv_lora_rank": sizes["kv_rank"],
        "qk_nope_head_dim": sizes["nope_dim"],
        "qk_rope_head_dim": sizes["rope_dim"],
        "v_head_dim": sizes["value_dim"],
    }


def _feed_forward(sizes: Mapping[str, int], family: Family) -> Words:
    """The width; Qwen 1's configuration counts gate and up together."""
    both = family.names.get("gate_and_up")
    return {both: 2 * sizes["ffn"]} if both else {name_of(family, "ffn"): sizes["ffn"]}


def _experts(sizes: Mapping[str, int], family: Family) -> Words:
    return {name_of(family, "experts"): sizes["expert"], name_of(family, "expert_ffn"): sizes["expert_ffn"]}


def _shared(sizes: Mapping[str, int], family: Family) -> Words:
    """All shared experts' width, or how many there are, each as wide as a routed one."""
    name, width = family.names.get("shared"), sizes["shared_ffn"]
    if name is None:
        return {}
    return {name: width if name.endswith("_size") else width // sizes["expert_ffn"]}


def _delta_net(sizes: Mapping[str, int], family: Family) -> Words:
    return {
        "linear_num_key_heads": sizes["key_head"],
        "linear_num_value_heads": sizes["key_head"] * sizes["value"],
        "linear_key_head_dim": sizes["key_dim"],
        "linear_value_head_dim": sizes["value_dim"],
        "linear_conv_kernel_dim": sizes["conv_kernel"],
    }


def _mixer(sizes: Mapping[str, int], family: Family) -> Words:
    heads = sizes["mamba_group"] * sizes["mamba_head"]
    inner, rest = divmod(heads * sizes["mamba_dim"], sizes["hidden"])
    words = {"n_groups": sizes["mamba_group"], "conv_kernel": sizes["conv_kernel"]}
    if "group" in sizes:
        return words | {"ssm_state_size": sizes["state"], "mamba_head_dim": sizes["mamba_dim"], "mamba_num_heads": heads}
    words |= {"state_size": sizes["state"], "head_dim": sizes["mamba_dim"], "num_heads": heads}
    return words if rest else words | {"expand": inner}


def _compressed(sizes: Mapping[str, int], family: Family) -> Words:
    return {
        "num_attention_heads": sizes["head"],
        "num_key_value_heads": 1,
        "head_dim": sizes["head_dim"],
        "q_lora_rank": sizes["q_rank"],
        "o_groups": sizes["o_group"],
        "o_lora_rank": sizes["o_rank"],
    }


BY_AXIS: Mapping[str, Callable[[Mapping[str, int], Family], Words]] = {
    "group": _grouped,
    "kv_rank": _latent,
    "o_group": _compressed,
    "ffn": _feed_forward,
    "expert": _experts,
    "shared_ffn": _shared,
    "route": lambda sizes, family: {"zero_expert_num": sizes["route"] - sizes["expert"]},
    "chosen": lambda sizes, family: {name_of(family, "chosen"): sizes["chosen"]},
    "index_head": lambda sizes, family: {"index_n_heads": sizes["index_head"], "index_head_dim": sizes["index_dim"]},
    "stream": lambda sizes, family: {"hc_mult": sizes["stream"]},
    "key_head": _delta_net,
    "mamba_group": _mixer,
}
