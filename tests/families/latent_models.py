"""Tiny models of the families with latent attention: their config.json, and random weights under Hugging Face's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import FAMILIES, Facts

SIZES: dict[str, Any] = {
    "hidden_size": 16, "vocab_size": 24, "num_attention_heads": 4, "rms_norm_eps": 1e-6,
    "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 8,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    **SIZES, "intermediate_size": 8, "moe_intermediate_size": 4, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2,
    "moe_layer_freq": 1, "first_k_dense_replace": 1, "num_hidden_layers": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
INDEXER = {"index_n_heads": 2, "index_head_dim": 4, "index_topk": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "plm": {
        **SIZES, "architectures": ["PLMForCausalLM"], "model_type": "plm", "intermediate_size": 12, "q_lora_rank": None,
        "num_hidden_layers": 4, "num_key_value_heads": 4, "tie_word_embeddings": True,
    },
    "deepseek2": {**EXPERTS, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": 5},
    "deepseek2-lite": {**EXPERTS, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "q_lora_rank": None},
    "deepseek3": {
        **EXPERTS, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "q_lora_rank": 5,
        "num_nextn_predict_layers": 2,
    },
    "deepseek32": {
        **EXPERTS, **INDEXER, "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "q_lora_rank": 5,
        "num_nextn_predict_layers": 1,
    },
    "glm5": {
        **EXPERTS, **INDEXER, "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "q_lora_rank": 5,
        "num_nextn_predict_layers": 1, "indexer_types": ["full", "full", "shared", "full"],
    },
    "longcat": {
        **SIZES, "architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", "q_lora_rank": 5, "num_layers": 4,
        "ffn_hidden_size": 8, "expert_ffn_hidden_size": 4, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2,
    },
}  # fmt: skip
# What a family's rows do not name, but a published checkpoint holds.
BESIDE = {"longcat": {"model.mtp.norm.weight": (16,), "model.mtp.layers.0.eh_proj.weight": (16, 32)}}

Tensors = dict[str, torch.Tensor]


def shapes_of(family: str, config: dict[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes, tied and optional tensors included only where a published checkpoint has them."""
    model = FAMILIES[family].build(Facts(config or CONFIGS[family], "config.json"))
    rows = {laid.name: laid.shape for laid in lay_model(model).kinds}
    return {name: shape for name, shape in rows.items() if not (model.tied and name == "lm_head.weight")} | BESIDE.get(family, {})


def write_model(family: str, directory: Path, config: dict[str, Any] | None = None) -> Tensors:
    """Write random values, different in every tensor; the copies in MTP layers too, so that a mixed up one shows."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float32).to(torch.bfloat16)
        for name, shape in shapes_of(family, config).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config or CONFIGS[family]))
    return tensors


def to_megatron(source: Path, source_format: str, target: Path, **layout: Any) -> None:
    options = layout.pop("options", {})
    place = {"format": "mindspeed-llm", "path": str(target), **layout}
    convert({"source": {"format": source_format, "path": str(source)}, "target": place, "options": options}, engine="inline")


def to_huggingface(source: Path, target: Path) -> Tensors:
    places = {"source": {"format": "mindspeed-llm", "path": str(source)}, "target": {"format": "huggingface", "path": str(target)}}
    convert(places, engine="inline")
    return {name: tensor for file in sorted(target.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def differences(want: Tensors, have: Tensors) -> list[str]:
    """What is missing, left over or has other bytes."""
    missing = [f"missing {name}" for name in want if name not in have] + [f"left over {name}" for name in have if name not in want]
    return missing + [f"differs {name}" for name in want if name in have and not torch.equal(want[name], have[name])]
