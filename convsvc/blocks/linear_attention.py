"""Gated delta net (Qwen3-Next): linear attention whose heads are grouped by key head, and the gated attention that stands between.

Sizes: key_head, the number of key heads; value = value heads a key head; key_dim and value_dim, a head's widths; qkvz = one key head's
query, key, values and their gates, as one projection makes them; ba = its values' two scalars each; conv_kernel; single (1). A key head
and its values never meet another, so tensor ranks share key heads (transformers Qwen3NextGatedDeltaNet.fix_query_key_value_ordering).
"""

from __future__ import annotations

from collections.abc import Callable

from convsvc.blocks.gqa import PROJ, QK_NORM
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, part, row

DELTA_QKVZ = logical("self_attention.in_proj_qkvz.weight", "key_head qkvz hidden", over="hidden")
DELTA_BA = logical("self_attention.in_proj_ba.weight", "key_head ba hidden")
# The convolution runs over all queries, all keys, all values: three tensors in one.
DELTA_CONV_QUERY = logical("self_attention.conv1d.query", "key_head key_dim single conv_kernel")
DELTA_CONV_KEY = logical("self_attention.conv1d.key", "key_head key_dim single conv_kernel")
DELTA_CONV_VALUE = logical("self_attention.conv1d.value", "key_head value value_dim single conv_kernel")
DELTA_DT_BIAS = logical("self_attention.dt_bias", "key_head value")
DELTA_A_LOG = logical("self_attention.A_log", "key_head value")
DELTA_NORM = logical("self_attention.norm.weight", "value_dim")
DELTA_OUT = logical("self_attention.out_proj.weight", "hidden key_head value value_dim", over="key_head value value_dim")

DELTA_CONV = (
    part(DELTA_CONV_QUERY, "(key_head key_dim) single conv_kernel"),
    part(DELTA_CONV_KEY, "(key_head key_dim) single conv_kernel"),
    part(DELTA_CONV_VALUE, "(key_head value value_dim) single conv_kernel"),
)
LINEAR_ATTENTION = (
    row("linear_attn.in_proj_qkvz.weight", DELTA_QKVZ, "(key_head qkvz) hidden"),
    row("linear_attn.in_proj_ba.weight", DELTA_BA, "(key_head ba) hidden"),
    row("linear_attn.conv1d.weight", DELTA_CONV),
    row("linear_attn.dt_bias", DELTA_DT_BIAS, "(key_head value)", keep="F32"),
    row("linear_attn.A_log", DELTA_A_LOG, "(key_head value)", keep="F32"),
    row("linear_attn.norm.weight", DELTA_NORM, "value_dim"),
    row("linear_attn.out_proj.weight", DELTA_OUT, "hidden (key_head value value_dim)"),
)

# A query head is followed by the gate of its output (gated 0 and 1).
GATED_QUERY = logical("self_attention.q_proj.weight", "group query gated head_dim hidden", over="hidden")
GATED_KEY = logical("self_attention.k_proj.weight", "group head_dim hidden", over="hidden")
GATED_VALUE = logical("self_attention.v_proj.weight", "group head_dim hidden", over="hidden")

GATED_ATTENTION = (
    row("self_attn.q_proj.weight", GATED_QUERY, "(group query gated head_dim) hidden"),
    row("self_attn.k_proj.weight", GATED_KEY, "(group head_dim) hidden"),
    row("self_attn.v_proj.weight", GATED_VALUE, "(group head_dim) hidden"),
    row("self_attn.o_proj.weight", PROJ, "hidden (group query head_dim)"),
    *QK_NORM,
)


def linear_attention_sizes(facts: Facts) -> dict[str, int]:
    """All of the module's sizes, and gated (2).

    Raises SourceError if the value heads cannot be grouped by key heads.
    """
    keys, values = facts.number("linear_num_key_heads"), facts.number("linear_num_value_heads")
    if not keys or values % keys:
        raise SourceError(f"{facts.origin}: {values} value heads cannot share {keys} key heads evenly (linear_num_value_heads)")
    key_dim, value_dim = facts.number("linear_key_head_dim"), facts.number("linear_value_head_dim")
    return {
        "key_head": keys,
        "value": values // keys,
        "key_dim": key_dim,
        "value_dim": value_dim,
        "qkvz": 2 * key_dim + 2 * values // keys * value_dim,
        "ba": 2 * values // keys,
        "conv_kernel": facts.first_number(("linear_conv_kernel_dim", "mamba_d_conv"), default=4),
        "single": 1,
        "gated": 2,
    }


def full_attention_layers(facts: Facts) -> Callable[[int], bool]:
    """Which layers have attention of the usual kind; MTP layers do. Others are linear.

    By layer_types, else every full_attention_interval-th layer (4 where nothing is said, as in transformers Qwen3NextConfig). Megatron's
    linear_attention_freq is such a number, or a list with 1 for what is linear (megatron/core/transformer/transformer_config.py).
    """
    layers = facts.num_layers
    kinds = facts.items("layer_types", str) or _by_megatron(facts)
    if kinds and len(kinds) < layers:
        raise SourceError(f"{facts.origin}: layer_types has {len(kinds)} entries; it must have one for each of {layers} layers")
    interval = max(facts.first_number(("full_attention_interval", "linear_attention_freq"), default=4), 1) if not kinds else 0

    def is_full(layer: int) -> bool:
        if layer >= layers:
            return True
        return kinds[layer] == "full_attention" if kinds else (layer + 1) % interval == 0

    return is_full


def _by_megatron(facts: Facts) -> tuple[str, ...]:
    """The layers' kinds where Megatron lists them."""
    listed = facts.get("linear_attention_freq")
    if not isinstance(listed, list | tuple):
        return ()
    return tuple(["linear_attention" if each else "full_attention" for each in facts.items("linear_attention_freq", int) or ()])
