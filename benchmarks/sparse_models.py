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
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
INT4 = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}
# As moonshotai/Kimi-K3 differs from it in size: 93 layers of 896 experts, which are narrower; its attention has no place in rank files.
K3_SHAPED: Mapping[str, Any] = {
    **DEEPSEEK_V3,
    "num_hidden_layers": 93,
    "first_k_dense_replace": 1,
    "intermediate_size": 33792,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 896,
    "n_shared_experts": 4,
    "num_experts_per_tok": 16,
    "num_attention_heads": 96,
    "num_key_value_heads": 96,
    "vocab_size": 163840,
}
# And itself, from its config.json.
KIMI_K3: Mapping[str, Any] = {
    "model_type": "kimi_linear",
    "architectures": ["KimiLinearForCausalLM"],
    "attn_res_block_size": 12,
    "first_k_dense_replace": 1,
    "hidden_size": 7168,
    "intermediate_size": 33792,
    "kv_lora_rank": 512,
    "linear_attn_config": {
        "full_attn_layers": [*range(4, 93, 4), 93],
        "head_dim": 128,
        "num_heads": 96,
        "short_conv_kernel_size": 4,
    },
    "moe_intermediate_size": 3072,
    "moe_layer_freq": 1,
    "num_attention_heads": 96,
    "num_experts": 896,
    "num_experts_per_token": 16,
    "num_hidden_layers": 93,
    "num_key_value_heads": 96,
    "num_shared_experts": 2,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "routed_expert_hidden_size": 3584,
    "v_head_dim": 128,
    "vocab_size": 163840,
    "tie_word_embeddings": False,
}
MXFP4 = {
    "quant_method": "compressed-tensors",
    "format": "mxfp4-pack-quantized",
    "config_groups": {"group_0": {"format": "mxfp4-pack-quantized", "weights": {"num_bits": 4, "group_size": 32, "type": "float"}}},
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "deepseek-v3-671b": DEEPSEEK_V3,
    "kimi-k2-1t": KIMI_K2,
    # As they are published: every projection in float8, the routed experts in four bits.
    "deepseek-v3-671b-fp8": {**DEEPSEEK_V3, "quantization_config": FP8},
    "kimi-k2-thinking-1t-int4": {**KIMI_K2, "quantization_config": INT4},
    "kimi-k3-shaped-2.8t": K3_SHAPED,
    "kimi-k3-shaped-2.8t-mxfp4": {**K3_SHAPED, "quantization_config": MXFP4},
    "kimi-k3-2.8t-mxfp4": {**KIMI_K3, "quantization_config": MXFP4},
}


def _stored(spec: TensorSpec, said: Mapping[str, Any] | None) -> list[TensorSpec]:
    """What a weight is stored as."""
    if said is None or not spec.name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
        return [spec]
    rows, columns = spec.shape
    if said is FP8:
        scales = (-(-rows // 128), -(-columns // 128))
        return [TensorSpec(spec.name, "F8_E4M3", spec.shape), TensorSpec(f"{spec.name}_scale_inv", "F32", scales)]
    if ".experts." not in spec.name:
        return [spec]
    if said is MXFP4:
        return [
            TensorSpec(spec.name + end, "U8", shape)
            for end, shape in (("_packed", (rows, columns // 2)), ("_scale", (rows, columns // 32)))
        ]
    parts = (("_packed", "I32", (rows, columns // 8)), ("_scale", "BF16", (rows, columns // 32)), ("_shape", "I32", (2,)))
    return [TensorSpec(spec.name + end, dtype, shape) for end, dtype, shape in parts]


def write_sparse_model(root: Path, config: Mapping[str, Any]) -> int:
    """Writes a Hugging Face directory of this configuration, in bf16 where it does not say that it is quantised, all weights holes.

    Answers the bytes it pretends to have.
    """
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    facts = Facts(config, "the benchmark")
    model = find_family(None, facts).build(facts, Wanted(num_mtp=0))
    said = config.get("quantization_config")
    specs = [spec for laid in lay_model(model).kinds for spec in _stored(TensorSpec(laid.name, "BF16", laid.shape), said)]
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
