"""Megatron core's words for what its rank files of other frameworks do not have, for `--use-checkpoint-args` and the way back. Pure.

By the names of megatron/core/transformer/transformer_config.py; `apply_layernorm_1p` is training's name of layernorm_zero_centered_gamma
(megatron/training/arguments.py, core_transformer_config_from_args).
"""

from __future__ import annotations

from typing import Any

from convsvc.blocks.linear_attention import GATED_QUERY
from convsvc.blocks.moe import SHARED_GATE
from convsvc.dialects.megatron.tables import is_delta_net
from convsvc.models.model import Model


def own_args(model: Model) -> dict[str, Any]:
    """What a model of these families needs said."""
    args: dict[str, Any] = {"apply_layernorm_1p": True} if model.family.zero_centred else {}
    args |= {"moe_shared_expert_gate": True} if model.layers_have(SHARED_GATE) else {}
    args |= {"attention_output_gate": True} if model.layers_have(GATED_QUERY) else {}
    return args | (_delta_nets(model) if "key_head" in model.sizes else {})


def _delta_nets(model: Model) -> dict[str, Any]:
    sizes, linear = model.sizes, list(map(is_delta_net, model.layers()))
    return {
        "experimental_attention_variant": "gated_delta_net" if any(linear) else None,
        "linear_attention_freq": list(map(int, linear)),
        "linear_conv_kernel_dim": sizes["conv_kernel"],
        "linear_key_head_dim": sizes["key_dim"],
        "linear_value_head_dim": sizes["value_dim"],
        "linear_num_key_heads": sizes["key_head"],
        "linear_num_value_heads": sizes["key_head"] * sizes["value"],
    }
