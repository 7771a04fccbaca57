"""Checkpoints of real shapes whose weights are holes: headers are there, tensors take no space and read as zeros."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.models import cut_shards
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import find_family
from convsvc.formats import FORMATS, safetensors
from convsvc.formats.base import TensorSpec
from convsvc.formats.zip.crc import crc32_zeros
from convsvc.models.facts import Facts
from convsvc.models.family import Wanted
from convsvc.plan.plan import Plan

SHARD_BYTES = 5 * 10**9

# From the config.json of deepseek-ai/DeepSeek-V3, without its MTP layer.
DEEPSEEK_V3: Mapping[str, Any] = {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
}
# As moonshotai/Kimi-K2 differs from it: a trillion parameters.
KIMI_K2: Mapping[str, Any] = {
    **DEEPSEEK_V3,
    "model_type": "kimi_k2",
    "first_k_dense_replace": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 163840,
}
MODELS = {"deepseek-v3-671b": DEEPSEEK_V3, "kimi-k2-1t": KIMI_K2}


def write_sparse_model(root: Path, config: Mapping[str, Any]) -> int:
    """Writes a Hugging Face directory of this configuration in bf16, all weights holes; answers the bytes it pretends to have."""
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    facts = Facts(config, "the benchmark")
    model = find_family(None, facts).build(facts, Wanted(num_mtp=0))
    specs = [TensorSpec(laid.name, "BF16", laid.shape) for laid in lay_model(model).kinds]
    shards = list(cut_shards(specs, SHARD_BYTES))
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        skeleton = safetensors.plan_skeleton(shard)
        with open(root / name, "wb") as file:
            file.write(skeleton.segments[0][1])
            os.ftruncate(file.fileno(), skeleton.size_bytes)
        weight_map |= {spec.name: name for spec in shard}
        total += skeleton.size_bytes
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return total


def write_sparse_target(plan: Plan, root: Path) -> None:
    """Writes the files of a plan's target as they would be if all weights were zero, all weights holes."""
    for file, skeleton in plan.new_files():
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        crcs = {tensor.name: crc32_zeros(tensor.size_bytes) for tensor in skeleton.tensors}
        with open(path, "wb", buffering=0) as opened:
            os.ftruncate(opened.fileno(), skeleton.size_bytes)
            for file_offset, data in (*skeleton.segments, *FORMATS[file.format].seal(skeleton, crcs)):
                os.pwrite(opened.fileno(), data, file_offset)
    for side in plan.side_files:
        if side.text is not None:
            (root / side.path).write_bytes(side.data)
