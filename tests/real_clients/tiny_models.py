"""Small random models of the families that transformers knows, as transformers builds, saves and runs them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 64,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
GLM = {
    "head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "attention_bias": True,
}
MINIMAX = {"num_local_experts": 4, "num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2}
MLA = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12, "num_key_value_heads": 8}
DEEPSEEK = {
    **MLA,
    "q_lora_rank": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
INDEXER = {"index_n_heads": 4, "index_head_dim": 8, "index_topk": 4}
NEXT = {
    **EXPERTS,
    "head_dim": 12,
    "shared_expert_intermediate_size": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
NEMOTRON_H = {
    "head_dim": 12,
    "layers_block_type": ["mamba", "attention", "moe", "mlp"],
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "n_routed_experts": 4,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 24,
    "num_experts_per_tok": 2,
}
GROUPED = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}
TOKENS = torch.tensor([[1, 5, 63, 17, 2, 40, 8]])


@dataclass(frozen=True, slots=True)
class Tiny:
    """A model of a family, small: its configuration class in transformers, what it adds to SIZES, and the layout it goes through."""

    family: str
    config: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=lambda: {"tensor_parallel_size": 2, "pipeline_parallel_size": 2})


MODELS = (
    Tiny("llama2", "LlamaConfig", {"head_dim": 12}),
    Tiny("llama2", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    Tiny(
        "qwen25", "Qwen2Config", layout={"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1}
    ),
    Tiny(
        "qwen3", "Qwen3Config", {"head_dim": 12}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "schedules_method": "dualpipev"}
    ),
    Tiny("magistral", "MistralConfig", {"head_dim": 12}),
    Tiny("seed-oss", "SeedOssConfig", {"head_dim": 12, "attention_bias": True, "attention_out_bias": True, "mlp_bias": True}),
    Tiny("gemma2", "Gemma2Config", {"head_dim": 12}),
    Tiny("phi3.5", "Phi3Config", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    Tiny("qwen2-moe", "Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]}, GROUPED),
    Tiny("glm45", "Glm4MoeConfig", {**GLM, "use_qk_norm": True}, GROUPED),
    Tiny("glm45-air", "Glm4MoeConfig", GLM, {"tensor_parallel_size": 2, "expert_parallel_size": 2}),
    Tiny("minimax_m2", "MiniMaxM2Config", {"head_dim": 12, **MINIMAX}, GROUPED),
    Tiny(
        "phi3.5-moe",
        "PhimoeConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
        GROUPED,
    ),
    Tiny("deepseek2", "DeepseekV2Config", DEEPSEEK, GROUPED),
    Tiny("deepseek2-lite", "DeepseekV2Config", {**DEEPSEEK, "q_lora_rank": None}, GROUPED),
    Tiny("deepseek3", "DeepseekV3Config", DEEPSEEK, GROUPED),
    Tiny("deepseek32", "DeepseekV32Config", {**DEEPSEEK, **INDEXER}, GROUPED),
    Tiny("glm5", "GlmMoeDsaConfig", {**DEEPSEEK, **INDEXER}, GROUPED),
    Tiny("qwen3-next", "Qwen3NextConfig", NEXT, {"pipeline_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}),
    Tiny("HYV3", "HYV3Config", {"head_dim": 12, **EXPERTS, "num_shared_experts": 1, "first_k_dense_replace": 1}, GROUPED),
    Tiny(
        "mamba2", "Mamba2Config", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "expand": 2}, {"tensor_parallel_size": 2}
    ),
    Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS}, {"pipeline_parallel_size": 2, "expert_parallel_size": 2}),
    Tiny(
        "qwen3-moe",
        "Qwen3MoeConfig",
        {"head_dim": 12, **EXPERTS, "mlp_only_layers": [1]},
        {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 1, "moe_grouped_gemm": True},
    ),
)


def foreign(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call into transformers; its deprecation warnings are not ours to answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def transformers() -> Any:
    library = foreign(importlib.import_module, "transformers")
    library.utils.logging.disable_progress_bar()
    return library


def save_random(tiny: Tiny, directory: Path, *, dtype: torch.dtype, tied: bool) -> None:
    """Save a model whose every parameter is random, norms and biases too: a swap of equal tensors would show in no logit."""
    library = transformers()
    config = getattr(library, tiny.config)(**{**SIZES, **tiny.extra}, tie_word_embeddings=tied)
    torch.manual_seed(0)
    model = foreign(library.AutoModelForCausalLM.from_config, config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + 0.1)
    foreign(model.save_pretrained, directory)


def load(directory: Path) -> tuple[Any, dict[str, Any]]:
    """(model, transformers' own account of what it found)."""
    library = transformers()
    model, info = foreign(library.AutoModelForCausalLM.from_pretrained, directory, dtype="auto", output_loading_info=True)
    # In memory of its own: a product in float32 may differ in the last bit with the place a weight has in its file.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.eval(), info


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = foreign(model, TOKENS).logits
    return result
