"""Sizes that the tensors themselves show: a checkpoint of MindSpore holds no configuration. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.errors import SourceError

Shapes = Mapping[str, tuple[int, ...]]
LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
MTP = re.compile(r"mtp\.layers\.(\d+)\.")
ATTENTION = "self_attention."


def see_sizes(shapes: Shapes, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, by Megatron's names, that follow from the tensors' whole shapes.

    `stated` may hold what they do not show: without a norm over a head's width, one of num_attention_heads and kv_channels.

    >>> see_sizes({"embedding.word_embeddings.weight": (32, 16), "decoder.layers.0.mlp.linear_fc1.weight": (48, 16)}, {})
    {'vocab_size': 32, 'hidden_size': 16, 'num_layers': 1, 'tie_word_embeddings': True, 'ffn_hidden_size': 24}
    """
    seen: dict[str, Any] = {}
    embedding = shapes.get("embedding.word_embeddings.weight")
    if embedding is not None and len(embedding) == 2:
        seen |= {"vocab_size": embedding[0], "hidden_size": embedding[1]}
    layers = _layers(shapes)
    seen |= {"num_layers": max(layers, default=-1) + 1, "tie_word_embeddings": "output_layer.weight" not in shapes}
    mtp = {int(found[1]) for name in shapes if (found := MTP.match(name))}
    if mtp:
        seen["mtp_num_layers"] = max(mtp) + 1
    seen |= _feed_forward(layers, seen.get("hidden_size"))
    first = layers[min(layers)] if layers else {}
    if f"{ATTENTION}linear_kv_down_proj.weight" in first:
        return seen | _latent(first)
    return seen | _grouped(first, stated)


def _layers(shapes: Shapes) -> dict[int, dict[str, tuple[int, ...]]]:
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if found := LAYER.fullmatch(name):
            layers.setdefault(int(found[1]), {})[found[2]] = shape
    return layers


def _feed_forward(layers: Mapping[int, Mapping[str, tuple[int, ...]]], hidden: int | None) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    sparse = [number for number, layer in layers.items() if "mlp.router.weight" in layer]
    dense = next((layer for layer in layers.values() if "mlp.linear_fc1.weight" in layer), None)
    if dense is not None:
        # The way back's columns: there are no gates in some, so that rows do not tell.
        back = dense.get("mlp.linear_fc2.weight")
        seen["ffn_hidden_size"] = back[1] if back is not None else dense["mlp.linear_fc1.weight"][0] // 2
    if not sparse:
        return seen
    layer = layers[sparse[0]]
    experts, weight = layer["mlp.router.weight"][0], layer.get("mlp.experts.weight1")
    kinds = [int(number in sparse) for number in range(max(layers) + 1)]
    seen |= {"num_experts": experts, "moe_layer_freq": kinds}
    if kinds == sorted(kinds):
        seen["first_k_dense_replace"] = kinds.count(0)
    if weight is not None and weight[-1] % 2 == 0:
        seen["moe_ffn_hidden_size"] = weight[-1] // 2
    shared = layer.get("mlp.shared_experts.linear_fc1.weight")
    return seen | ({"moe_shared_expert_intermediate_size": shared[0] // 2} if shared is not None else {})


def _latent(layer: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Latent attention: with the rotary width known, the rows of the up projections leave one number of heads."""

    def rows(name: str) -> int:
        return layer[f"{ATTENTION}{name}.weight"][0]

    try:
        rank, latent = rows("kv_layernorm"), rows("linear_kv_down_proj")
        queries = rows("linear_q_up_proj") if f"{ATTENTION}linear_q_up_proj.weight" in layer else rows("linear_q_proj")
        values, keys_and_values = layer[f"{ATTENTION}linear_proj.weight"][1], rows("linear_kv_up_proj")
        rotary = latent - rank
        heads, rest = divmod(queries - (keys_and_values - values), rotary)
        fits = not rest and heads > 0 and values % heads == 0 and (keys_and_values - values) % heads == 0
    except (KeyError, IndexError, ZeroDivisionError):
        return {}
    seen = {"kv_lora_rank": rank, "qk_rope_head_dim": rotary, "multi_latent_attention": True}
    if f"{ATTENTION}q_layernorm.weight" in layer:
        seen["q_lora_rank"] = rows("q_layernorm")
    if fits:
        nope = (keys_and_values - values) // heads
        seen |= {"num_attention_heads": heads, "qk_nope_head_dim": nope, "v_head_dim": values // heads}
    return seen


def _grouped(layer: Mapping[str, tuple[int, ...]], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Grouped-query attention: a head's width, by its norm or as stated, leaves one number of heads and of groups."""
    qkv, proj, norm = (layer.get(f"{ATTENTION}{name}.weight") for name in ("linear_qkv", "linear_proj", "q_layernorm"))
    if qkv is None or proj is None or len(qkv) != 2 or len(proj) != 2:
        return {}
    queries, heads = proj[1], _first_number(stated, "num_attention_heads")
    width = norm[0] if norm is not None else _first_number(stated, "kv_channels", "head_dim")
    if width is None and heads and queries % heads == 0:
        width = queries // heads
    if not width or queries % width or (qkv[0] - queries) % (2 * width):
        return {}
    groups = (qkv[0] - queries) // (2 * width)
    return {"num_attention_heads": queries // width, "kv_channels": width, "num_query_groups": groups, "group_query_attention": True}


def _first_number(stated: Mapping[str, Any], *names: str) -> int | None:
    return next((stated[name] for name in names if isinstance(stated.get(name), int)), None)


# What the same number is called in a Hugging Face configuration.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_layers": ("num_hidden_layers",),
    "num_query_groups": ("num_key_value_heads",),
    "kv_channels": ("head_dim",),
    "ffn_hidden_size": ("intermediate_size",),
    "moe_ffn_hidden_size": ("moe_intermediate_size",),
    "num_experts": ("n_routed_experts", "num_moe_experts", "num_local_experts"),
    "num_moe_experts": ("num_experts", "n_routed_experts", "num_local_experts"),
    "mtp_num_layers": ("num_nextn_predict_layers",),
}


def check_seen(seen: Mapping[str, Any], stated: Mapping[str, Any], origin: str, path: str, but: Iterable[str] = ()) -> None:
    """Raises SourceError for numbers that somebody states and the tensors show to be others; scrambled weights would be the result."""
    faults = [
        f"{name}: {origin} says {stated[alias]}, the tensors show {value}"
        for name, value in seen.items()
        for alias in (name, *ALIASES.get(name, ()))
        if name not in but and not isinstance(value, list) and stated.get(alias) is not None and stated[alias] != value
    ]
    if faults:
        raise SourceError(f"{path} is another model than {origin} says", facts=faults, do="give the numbers of this checkpoint")


def guess_family(shapes: Shapes) -> dict[str, Any]:
    """The family that has just such tensors, with the switches that add them; nothing where several would do.

    For where neither job nor configuration names one.
    """
    kinds = {found[2] for name in shapes if (found := LAYER.fullmatch(name))}
    sparse, shared = "mlp.router.weight" in kinds, any("shared_experts" in kind for kind in kinds)
    latent, normed = f"{ATTENTION}linear_kv_down_proj.weight" in kinds, f"{ATTENTION}q_layernorm.weight" in kinds
    biased = f"{ATTENTION}linear_qkv.bias" in kinds
    if latent:
        return {"model_type_hf": "deepseek3"} if "mlp.router.expert_bias" in kinds else {}
    if normed and not biased and not shared:
        return {"model_type_hf": "qwen3-moe" if sparse else "qwen3"}
    if not sparse and f"{ATTENTION}linear_qkv.weight" in kinds:
        return _dense_family(kinds)
    return {}


def _dense_family(kinds: set[str]) -> dict[str, Any]:
    """Llama and what differs from it in biases alone."""
    attention, behind = (f"{ATTENTION}{name}.bias" in kinds for name in ("linear_qkv", "linear_proj"))
    first, last = (f"mlp.{name}.bias" in kinds for name in ("linear_fc1", "linear_fc2"))
    if first == last and attention == behind:
        return {"model_type_hf": "llama2", "attention_bias": attention, "mlp_bias": first}
    if attention and not (behind or first or last):
        return {"model_type_hf": "qwen25"}
    return {"model_type_hf": "telechat2"} if behind and last and not (attention or first) else {}
