"""A small config.json for each family with grouped-query attention, with the fields their published ones have."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "hidden_size": 16,
    "vocab_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 24,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
WIDE_HEADS = {"head_dim": 4}
EXPERTS = {"moe_intermediate_size": 8, "num_experts_per_tok": 2}
GLM = {
    **WIDE_HEADS,
    **EXPERTS,
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "num_nextn_predict_layers": 1,
}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "llama2": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "magistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **WIDE_HEADS},
    "seed-oss": {
        "architectures": ["SeedOssForCausalLM"],
        "model_type": "seed_oss",
        "attention_bias": True,
        "attention_out_bias": False,
        "mlp_bias": False,
        **WIDE_HEADS,
    },
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", **WIDE_HEADS, "tie_word_embeddings": None},
    "phi3.5": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": 0},
    "qwen2-moe": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        **EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 12,
        "mlp_only_layers": [1],
    },
    "glm45": {**GLM, "use_qk_norm": True},
    "glm45-air": {**GLM, "use_qk_norm": False},
    "minimax_m2": {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        **WIDE_HEADS,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "use_qk_norm": True,
        "qk_norm_type": "per_layer",
    },
    "HYV3": {
        "architectures": ["HYV3ForCausalLM"],
        "model_type": "hy_v3",
        **WIDE_HEADS,
        **EXPERTS,
        "num_experts": 4,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
    },
    "bailing_mini": {
        "architectures": ["BailingMoeV2ForCausalLM"],
        "model_type": "bailing_moe",
        **WIDE_HEADS,
        **EXPERTS,
        "num_experts": 4,
        "num_shared_experts": 2,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_bias": False,
    },
    "phi3.5-moe": {
        "architectures": ["PhimoeForCausalLM"],
        "model_type": "phimoe",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
}


def config(family: str, **changes: Any) -> dict[str, Any]:
    """The family's config.json; a change to None leaves the field out."""
    merged = {**BASE, **DIFFERENCES[family], **changes}
    return {name: value for name, value in merged.items() if value is not None}
