"""Tiny models whose layers are no plain attention: Qwen3-Next, Mamba-2, DeepSeek-V4. Their config.json, and values for their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import FAMILIES, Facts
from convsvc.models.family import Wanted

Tensors = dict[str, torch.Tensor]

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-next": {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 8, "vocab_size": 16,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 8,
        "moe_intermediate_size": 4, "shared_expert_intermediate_size": 4, "num_experts": 4, "num_experts_per_tok": 2,
        "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 2, "linear_value_head_dim": 3,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "tie_word_embeddings": False,
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_size": 8, "vocab_size": 16, "num_hidden_layers": 4,
        "state_size": 3, "n_groups": 2, "head_dim": 4, "num_heads": 4, "expand": 2, "conv_kernel": 4, "use_bias": False,
        "use_conv_bias": True, "tie_word_embeddings": False,
    },
    "deepseek4": {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 8, "vocab_size": 16,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 4, "q_lora_rank": 6, "o_groups": 2,
        "o_lora_rank": 3, "moe_intermediate_size": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "index_n_heads": 2, "index_head_dim": 4, "hc_mult": 2, "num_nextn_predict_layers": 1, "num_hash_layers": 1,
        "compress_ratios": [0, 4, 128, 0, 0], "qk_rope_head_dim": 2, "tie_word_embeddings": False,
    },
}  # fmt: skip
STATE_SPACES = {"d_model": 8, "n_layer": 2, "vocab_size": 13, "pad_vocab_size_multiple": 8, "ssm_cfg": {"layer": "Mamba2"}}
MTP = {"qwen3-next": 1, "mamba2": 0, "deepseek4": 1}


def stored_shapes(family: str, config: dict[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything a Hugging Face checkpoint of it holds, MTP layers included."""
    model = FAMILIES[family].build(Facts(config or CONFIGS[family], "config.json"), Wanted(num_mtp=MTP.get(family, 1)))
    return {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}


def write_hybrid(family: str, directory: Path, config: dict[str, Any] | None = None) -> Tensors:
    """Write a checkpoint whose every element is another number, so that whatever lies in a wrong place shows."""
    directory.mkdir()
    tensors: Tensors = {}
    count = 0
    for name, shape in stored_shapes(family, config).items():
        size = torch.Size(shape).numel()
        values = torch.arange(count, count + size)
        tensors[name] = values.reshape(shape) if name.endswith("tid2eid") else values.to(torch.float32).reshape(shape)
        count += size
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config or CONFIGS[family]))
    return tensors
