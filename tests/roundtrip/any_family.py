"""Draws small models of every family. Sizes that a layout cuts are multiples of 2, or of 4, so that tp 1, 2 and mostly 4 are legal.

A tuple is a choice. Names and shapes are the declarations' own: whether they are Hugging Face's is shown by the golden cases and
by transformers; here it is where they go and whether they come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import FAMILIES, Facts, Wanted
from tests.roundtrip.any_layout import Drawn

Choices = dict[str, Any]

BOOL = (False, True)
SIZES: Choices = {"hidden_size": (8, 12), "vocab_size": (16, 28), "rms_norm_eps": 1e-6}
GQA: Choices = {**SIZES, "num_key_value_heads": (2, 4), "query": (1, 2, 3), "head_dim": (2, 4), "intermediate_size": (4, 12)}
TIED: Choices = {"tie_word_embeddings": BOOL}
UNTIED: Choices = {"tie_word_embeddings": False}
EXPERTS: Choices = {"moe_intermediate_size": (4, 8), "num_experts_per_tok": 2}
FIRST_DENSE: Choices = {"first_k_dense_replace": (0, 1)}
MTP: Choices = {"num_nextn_predict_layers": (0, 1, 2)}
GLM: Choices = {
    **GQA, **UNTIED, **EXPERTS, **FIRST_DENSE, **MTP, "architectures": ["Glm4MoeForCausalLM"], "n_routed_experts": 4, "n_shared_experts": 1,
    "attention_bias": True,
}  # fmt: skip
MLA: Choices = {
    **SIZES, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": (5, 6), "q_lora_rank": (5, 7), "qk_nope_head_dim": (3, 4),
    "qk_rope_head_dim": 2, "v_head_dim": (3, 8), "intermediate_size": (4, 12),
}  # fmt: skip
DEEPSEEK: Choices = {**MLA, **EXPERTS, **FIRST_DENSE, **UNTIED, "n_routed_experts": 4, "n_shared_experts": (1, 2), "moe_layer_freq": 1}
INDEXER: Choices = {"index_n_heads": 2, "index_head_dim": (3, 4), "index_topk": 8}
DEEPSEEK4: Choices = {
    **SIZES, **UNTIED, "architectures": ["DeepseekV4ForCausalLM"], "num_attention_heads": (4, 8), "num_key_value_heads": 1,
    "head_dim": (2, 4), "q_lora_rank": 6, "o_groups": 4, "o_lora_rank": (2, 3), "moe_intermediate_size": (4, 8), "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "index_n_heads": 4, "index_head_dim": (2, 3), "hc_mult": 2,
    "num_nextn_predict_layers": (0, 1, 2), "num_hash_layers": (0, 1, 2), "compress_ratios": "one a layer", "qk_rope_head_dim": 2,
}  # fmt: skip
CONFIGS: dict[str, Choices] = {
    "llama2": {**GQA, **TIED, "model_type": "llama", "attention_bias": BOOL, "mlp_bias": BOOL},
    "qwen25": {**GQA, **TIED, "model_type": "qwen2"},
    "qwen3": {**GQA, **TIED, "model_type": "qwen3"},
    "qwen3-moe": {**GQA, **TIED, **EXPERTS, "model_type": "qwen3_moe", "num_experts": 4, "mlp_only_layers": ([], [0], [1])},
    "magistral": {**GQA, **UNTIED, "model_type": "mistral"},
    "seed-oss": {**GQA, **TIED, "model_type": "seed_oss", "attention_bias": BOOL, "attention_out_bias": BOOL, "mlp_bias": BOOL},
    "gemma2": {**GQA, **TIED, "model_type": "gemma2"},
    "phi3.5": {**GQA, **UNTIED, "model_type": "phi3"},
    "glm4": {**GQA, **TIED, "model_type": "glm4", "attention_bias": BOOL},
    "mixtral": {**GQA, **UNTIED, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2-moe": {
        **GQA, **TIED, **EXPERTS, "model_type": "qwen2_moe", "num_experts": 4, "shared_expert_intermediate_size": (4, 12),
        "mlp_only_layers": ([], [0], [1]),
    },
    "glm45": {**GLM, "use_qk_norm": True},
    "glm45-air": {**GLM, "use_qk_norm": False},
    "minimax_m2": {
        **GQA, **UNTIED, "model_type": "minimax_m2", "num_local_experts": 4, "num_experts_per_tok": 2, "use_qk_norm": True,
        "qk_norm_type": "per_layer",
    },
    "HYV3": {**GQA, **UNTIED, **EXPERTS, **FIRST_DENSE, **MTP, "model_type": "hy_v3", "num_experts": 4, "num_shared_experts": 1},
    "bailing_mini": {
        **GQA, **UNTIED, **EXPERTS, **FIRST_DENSE, **MTP, "architectures": ["BailingMoeV2ForCausalLM"], "num_experts": 4,
        "num_shared_experts": (1, 2), "use_qk_norm": BOOL, "use_qkv_bias": BOOL, "use_bias": False,
    },
    "phi3.5-moe": {
        **GQA, **UNTIED, "model_type": "phimoe", "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": BOOL,
        "lm_head_bias": BOOL,
    },
    "plm": {**MLA, "model_type": "plm", "q_lora_rank": None, "tie_word_embeddings": True},
    "deepseek2": {**DEEPSEEK, "model_type": "deepseek_v2"},
    "deepseek2-lite": {**DEEPSEEK, "model_type": "deepseek_v2", "q_lora_rank": None},
    "deepseek3": {**DEEPSEEK, **MTP, "model_type": "deepseek_v3"},
    "deepseek32": {**DEEPSEEK, **MTP, **INDEXER, "model_type": "deepseek_v32"},
    "glm5": {**DEEPSEEK, **MTP, **INDEXER, "model_type": "glm_moe_dsa"},
    "longcat": {
        **MLA, "model_type": "longcat_flash", "ffn_hidden_size": (4, 12), "expert_ffn_hidden_size": (4, 8), "n_routed_experts": 4,
        "zero_expert_num": (0, 3), "moe_topk": 2,
    },
    "qwen3-next": {
        **GQA, **UNTIED, **EXPERTS, "model_type": "qwen3_next", "shared_expert_intermediate_size": 4, "num_experts": 4,
        "full_attention_interval": (1, 2, 4), "linear_conv_kernel_dim": 4, "linear_key_head_dim": (2, 3), "linear_value_head_dim": (2, 3),
        "linear_num_key_heads": 4, "linear_num_value_heads": (4, 8, 12),
    },
    "mamba2": {
        **SIZES, **UNTIED, "model_type": "mamba2", "state_size": (2, 3), "n_groups": (2, 4), "head_dim": (2, 4), "num_heads": (4, 8),
        "expand": 2, "conv_kernel": 4, "use_conv_bias": BOOL,
    },
    "deepseek4": {**DEEPSEEK4},
    "deepseek4_base": {**DEEPSEEK4},
}  # fmt: skip
DENSE: Choices = {**GQA, **TIED}
DELTA: Choices = {
    "full_attention_interval": (1, 2, 4), "linear_conv_kernel_dim": 4, "linear_key_head_dim": (2, 3), "linear_value_head_dim": (2, 3),
    "linear_num_key_heads": 4, "linear_num_value_heads": (4, 8, 12),
}  # fmt: skip
SPARSE: Choices = {**GQA, **UNTIED, "num_local_experts": 4, "num_experts_per_tok": 2}
SHARED: Choices = {**GQA, **UNTIED, **EXPERTS, "n_routed_experts": 4, "n_shared_experts": (1, 2)}
# Siblings: their logical tensors, and so where these go, are those of a family above.
SIBLINGS: dict[str, Choices] = {
    "granite": {**DENSE, "model_type": "granite", "attention_bias": BOOL, "mlp_bias": BOOL},
    "granitemoe": {**SPARSE, "model_type": "granitemoe", "attention_bias": BOOL},
    "granitemoeshared": {**SPARSE, "model_type": "granitemoeshared", "shared_intermediate_size": (4, 12)},
    "smollm3": {**DENSE, "model_type": "smollm3", "attention_bias": BOOL},
    "ernie4.5": {**DENSE, "model_type": "ernie4_5", "use_bias": BOOL},
    "internlm": {**DENSE, "model_type": "internlm", "bias": BOOL},
    "internlm2": {**DENSE, "model_type": "internlm2", "bias": BOOL},
    "internlm3": {**DENSE, "model_type": "internlm3", "qkv_bias": BOOL, "bias": BOOL},
    "pangu-embedded": {**DENSE, "model_type": "PanguEmbedded", "bias": BOOL},
    "gemma": {**DENSE, "model_type": "gemma"},
    "gemma3": {**DENSE, "model_type": "gemma3_text"},
    "glm": {**DENSE, "model_type": "glm", "attention_bias": BOOL},
    "chatglm": {**DENSE, "model_type": "chatglm", "add_qkv_bias": BOOL},
    "deepseek": {**SHARED, **FIRST_DENSE, "model_type": "deepseek"},
    "glm4-moe-lite": {**DEEPSEEK, **MTP, "model_type": "glm4_moe_lite"},
    "mimo": {**DENSE, "model_type": "mimo"},
    "dots1": {**SHARED, **FIRST_DENSE, "model_type": "dots1", "attention_bias": BOOL},
    "solar-open": {**SHARED, "model_type": "solar_open"},
    "qwen": {**DENSE, "model_type": "qwen"},
    "baichuan": {**DENSE, "model_type": "baichuan"},
    "minicpm": {**DENSE, "model_type": "minicpm", "attention_bias": BOOL},
    "minicpm3": {**MLA, **TIED, "model_type": "minicpm3", "mlp_bias": BOOL},
    "youtu": {**MLA, **TIED, "model_type": "youtu"},
    "cwm": {**DENSE, "model_type": "cwm"},
    "helium": {**DENSE, "model_type": "helium", "attention_bias": BOOL, "mlp_bias": BOOL},
    "telechat2": {**DENSE, "model_type": "telechat"},
    "arcee": {**DENSE, "model_type": "arcee", "attention_bias": BOOL, "mlp_bias": BOOL},
    "qwen3.5": {**GQA, **TIED, **DELTA, "model_type": "qwen3_5_text"},
    "qwen3.5-moe": {
        **GQA,
        **UNTIED,
        **EXPERTS,
        **DELTA,
        "model_type": "qwen3_5_moe_text",
        "shared_expert_intermediate_size": 4,
        "num_experts": 4,
    },
    "olmoe": {**GQA, **UNTIED, "model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2, "attention_bias": BOOL},
    "exaone-moe": {**GQA, **UNTIED, **EXPERTS, **FIRST_DENSE, "model_type": "exaone_moe", "num_experts": 4, "num_shared_experts": (1, 2)},
    "hunyuan": {**DENSE, "model_type": "hunyuan_v1_dense", "attention_bias": BOOL},
    "hunyuan-moe": {**GQA, **TIED, "model_type": "hunyuan_v1_moe", "num_experts": 4, "moe_topk": 2, "attention_bias": BOOL},
    "ernie4.5-moe": {
        **GQA,
        **UNTIED,
        "model_type": "ernie4_5_moe",
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": (4, 8),
        "moe_num_shared_experts": (0, 2),
        "moe_layer_start_index": (0, 1),
    },
    "llama4": {
        **GQA,
        **UNTIED,
        "model_type": "llama4_text",
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": (4, 12),
        "interleave_moe_layer_step": (1, 2),
    },
    "gpt-neox": {**GQA, **TIED, "model_type": "gpt_neox", "use_parallel_residual": False, "attention_bias": BOOL},
    "falcon": {
        **GQA,
        **TIED,
        "model_type": "falcon",
        "multi_query": False,
        "parallel_attn": False,
        "bias": BOOL,
        "query": 1,
        "intermediate_size": None,
    },
    "stablelm": {**DENSE, "model_type": "stablelm", "use_qkv_bias": BOOL},
    "starcoder2": {**DENSE, "model_type": "starcoder2", "use_bias": BOOL},
    "nemotron": {**DENSE, "model_type": "nemotron", "attention_bias": BOOL, "mlp_bias": BOOL},
    "gpt-bigcode": {**GQA, **TIED, "model_type": "gpt_bigcode", "multi_query": False, "n_positions": (3, 16), "query": 1},
    "mistral4": {**DEEPSEEK, "model_type": "mistral4"},
    "nemotron-h": {
        **GQA,
        **UNTIED,
        **EXPERTS,
        "model_type": "nemotron_h",
        "hybrid_override_pattern": ("M*E-M", "MMMMM", "*EME-"),
        "ssm_state_size": 2,
        "mamba_num_heads": 8,
        "mamba_head_dim": 2,
        "n_groups": 4,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": (4, 12),
    },
    "jais2": {**DENSE, "model_type": "jais2", "attention_bias": BOOL, "mlp_bias": BOOL},
    "mellum": {**GQA, **TIED, **EXPERTS, "model_type": "mellum", "num_experts": 4},
    "hyperclovax": {**DENSE, "model_type": "hyperclovax", "attention_bias": BOOL, "mlp_bias": BOOL, "use_post_norm": BOOL},
    "vaultgemma": {**DENSE, "model_type": "vaultgemma"},
    "axk1": {**DEEPSEEK, "model_type": "axk1"},
    "exaone": {**DENSE, "model_type": "exaone"},
    "molmo": {**DENSE, "model_type": "molmo", "intermediate_size": (8, 24), "qkv_bias": BOOL},
    "yi": {**DENSE, "model_type": "Yi"},
    "orion": {**DENSE, "model_type": "orion"},
    "dbrx": {**GQA, **UNTIED, "model_type": "dbrx", "num_experts": 4, "num_experts_per_tok": 2},
    "granite4": {
        **GQA,
        **TIED,
        "model_type": "granitemoehybrid",
        "layer_types": ["attention"],
        "shared_intermediate_size": (4, 12),
        "num_local_experts": (0, 4),
        "num_experts_per_tok": 2,
    },
    "opt": {**GQA, **TIED, "model_type": "opt", "max_position_embeddings": (2, 14), "query": 1},
    "phi4-mm": {**GQA, **UNTIED, "model_type": "phi4_multimodal"},
    "gpt2": {**GQA, **TIED, "model_type": "gpt2", "n_positions": (3, 16), "query": 1},
    "gpt-neo": {**GQA, **TIED, "model_type": "gpt_neo", "max_position_embeddings": (3, 16), "query": 1},
    "mpt": {**GQA, **TIED, "model_type": "mpt", "expansion_ratio": 4, "query": 1, "intermediate_size": None},
}
# Those whose mathematics Megatron's model has no place for: rank files refuse them by name.
HUGGING_FACE_ONLY = {
    "olmo2", "exaone4", "bloom", "phi", "cohere", "gpt-oss", "gemma4", "gemma4-edge", "kimi-linear", "minimax_m1", "lfm2", "lfm2-moe",
    "laguna", "mimo-v2", "bailing_hybrid", "gemma3n", "kimi-k3", "minimax_m3", "mllama", "olmo", "opt-350m", "step3", "gptj", "codegen",
    "flex-olmo", "apertus", "bitnet", "afmoe", "cohere2-moe", "bamba", "falcon-h1", "jamba", "mamba", "falcon-mamba",
    "olmo-hybrid", "recurrent-gemma", "persimmon", "nanochat", "diffllama", "doge", "jetmoe", "xglm", "biogpt",
}  # fmt: skip
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


@st.composite
def any_family(draw: st.DrawFn, family: str, layers: int | None = None, fixed: Choices | None = None) -> Drawn:
    """A model of up to five layers, or as many as given; `fixed` are fields of its configuration that are not drawn."""
    choices = (CONFIGS | SIBLINGS)[family] | (fixed or {})
    chosen = {name: draw(st.sampled_from(value)) if isinstance(value, tuple) else value for name, value in choices.items()}
    layers = layers or draw(st.integers(1, 5))
    config = {name: value for name, value in chosen.items() if value is not None and name != "query"}
    config["num_layers" if family == "longcat" else "num_hidden_layers"] = layers
    if "query" in chosen:
        config["num_attention_heads"] = config["num_key_value_heads"] * chosen["query"]
    if chosen.get("compress_ratios") == "one a layer":
        count = layers + config["num_nextn_predict_layers"]
        config["compress_ratios"] = draw(st.lists(st.sampled_from([0, 4, 8]), min_size=count, max_size=count))
    num_mtp = 1 if family == "qwen3-next" else config.get("num_nextn_predict_layers", 0)
    model = FAMILIES[family].build(Facts(config, "config.json"), Wanted(num_mtp=num_mtp))
    shapes = {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}
    return Drawn(
        family,
        config,
        shapes,
        layers,
        _tps(config, model.sizes),
        _experts_of(config),
        num_mtp,
        "q_lora_rank" in config and "o_groups" not in config,
    )


def _tps(config: Choices, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """What tp can be: it divides whatever is cut by heads, groups, or a block's width (Qwen 1's configuration says twice that)."""
    cut = [config[name] for name in ("n_groups", "o_groups", "linear_num_key_heads") if name in config]
    if "o_groups" not in config and "n_groups" not in config:
        cut.append(config["num_key_value_heads"])
    cut += [sizes[axis] for axis in ("ffn", "expert_ffn", "shared_ffn") if axis in sizes]
    return tuple(tp for tp in (1, 2, 4) if all(size % tp == 0 for size in cut))


def _experts_of(config: Choices) -> int:
    return next((int(config[name]) for name in EXPERT_COUNTS if name in config), 0)
