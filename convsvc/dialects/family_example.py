"""A made-up configuration that stands for all of a family's: every flag is on, one layer of four is dense. For what is said of families."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from convsvc.dialects.diffusion_pages import example
from convsvc.errors import SourceError
from convsvc.families import Facts, Family, Model
from convsvc.models.diffusion import Diffusion
from convsvc.models.family import Wanted

EXAMPLE: Mapping[str, object] = {
    "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128,
    "intermediate_size": 96, "num_experts": 8, "moe_intermediate_size": 32, "n_shared_experts": 1, "shared_expert_intermediate_size": 32,
    "q_lora_rank": 32, "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12,
    "index_n_heads": 4, "index_head_dim": 16, "num_nextn_predict_layers": 1, "linear_num_key_heads": 4, "linear_num_value_heads": 8,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
    "compress_ratios": [0, 4, 128, 4, 0], "n_groups": 2, "num_heads": 8, "state_size": 16,
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16,
    "vision_config": {
        "depth": 4, "embed_dim": 64, "hidden_size": 64, "out_hidden_size": 64, "num_heads": 8, "intermediate_size": 96, "patch_size": 14,
        "num_hidden_layers": 4, "num_attention_heads": 8, "image_size": 56, "num_position_embeddings": 16, "layers": 4, "width": 64,
        "deepstack_visual_indexes": [0], "qk_normalization": True, "qkv_bias": True,
    },
    "audio_config": {"encoder_layers": 4, "d_model": 64, "encoder_ffn_dim": 96, "encoder_attention_heads": 8, "output_dim": 64},
}  # fmt: skip
NOTHING: Mapping[str, object] = MappingProxyType({})
# What tells layers apart, of families whose published models have more kinds of them than a silent configuration, or none of one kind.
KINDS: Mapping[str, Mapping[str, object]] = {
    "deepseek-vl2": {"q_lora_rank": None},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2-moe": {"layer_types": ["conv", "full_attention"] * 2},
    "granite4": {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 32},
    "kimi-linear": {
        "linear_attn_config": {
            "full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 16, "num_heads": 8, "short_conv_kernel_size": 4,
        },
    },
    "minimax_m3": {"layer_types": ["full_attention", *["minimax_m3_sparse"] * 3]},
}  # fmt: skip
# Published models of a family with other tensors than its example has: places of which only some have them.
OTHERS: Mapping[str, tuple[Mapping[str, object], ...]] = {
    "deepseek-vl2": ({"q_lora_rank": 32},),
    "ernie4.5-moe": ({"use_bias": False},),
    "falcon": ({"parallel_attn": False},),
    "gpt-neox": ({"use_parallel_residual": False},),
    "granite4": ({"layer_types": ["attention"] * 4},),
    "hyperclovax": ({"use_post_norm": False},),
    "laguna": ({"gating": False},),
    "mamba2": ({"use_bias": True},),
    "molmo": ({"attention_layer_norm": False}, {"norm_after": True}),
    "nemotron-h": ({"use_bias": True},),
    "opt": ({"do_layer_norm_before": False},),
    "stablelm": ({"qk_layernorm": True}, {"use_parallel_residual": True}),
}
# Beside EXAMPLE, where a family has both kinds of feed-forward blocks.
ONE_DENSE = {"first_k_dense_replace": 1}


class _Example(Facts):
    """A configuration that has every number: one that is needed and not there is 8."""

    def number(self, what: str, default: int | None = None) -> int:
        try:
            return Facts.number(self, what, default)
        except SourceError:
            return 8


def example_model(family: Family, num_mtp: int | None = None, other: Mapping[str, object] = NOTHING) -> Model:
    """The family with every flag on, and a dense layer where it can have one; `other`: but for what this says."""
    if isinstance(family, Diffusion):
        return example(family)
    names = [flag if isinstance(flag, str) else flag[0] for flag, _ in family.flags]
    values = {**EXAMPLE, **dict.fromkeys(names, True), **(ONE_DENSE if family.mlp else {}), **KINDS.get(family.name, {}), **other}
    return family.build(_Example(values, "the example configuration"), Wanted(num_mtp=num_mtp))


def example_models(family: Family, num_mtp: int | None = None) -> tuple[Model, ...]:
    """The example, and one for each kind of published model that has other tensors than it."""
    return tuple([example_model(family, num_mtp, other) for other in (NOTHING, *OTHERS.get(family.name, ()))])
