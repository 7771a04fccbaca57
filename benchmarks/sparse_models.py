"""Checkpoints of real shapes whose weights are holes: headers are there, tensors take no space and read as zeros."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.models import VISION, cut_shards
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
# As deepseek-ai/DeepSeek-V4-Flash says of itself, without what weighs nothing.
DEEPSEEK_V4: Mapping[str, Any] = {
    "model_type": "deepseek_v4",
    "architectures": ["DeepseekV4ForCausalLM"],
    "compress_ratios": [0, 0, *[4, 128] * 20, 4],
    "hc_mult": 4,
    "head_dim": 512,
    "hidden_size": 4096,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_attention_heads": 64,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "num_hidden_layers": 43,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 0,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
}
# As openai/gpt-oss-120b.
GPT_OSS: Mapping[str, Any] = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "vocab_size": 201088,
    "tie_word_embeddings": False,
}
INT4 = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}
MXFP4 = {
    "quant_method": "compressed-tensors",
    "format": "mxfp4-pack-quantized",
    "config_groups": {"group_0": {"format": "mxfp4-pack-quantized", "weights": {"num_bits": 4, "group_size": 32, "type": "float"}}},
}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
FP8_FP4 = {**FP8, "scale_fmt": "ue8m0"}
BLOCKS = {"quant_method": "mxfp4"}
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
# From the config.json of Qwen/Qwen2-VL-7B-Instruct.
QWEN2_VL_7B: Mapping[str, Any] = {**VISION, "num_hidden_layers": 28, "vocab_size": 152064}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "qwen2-vl-7b": QWEN2_VL_7B,
    "deepseek-v3-671b": DEEPSEEK_V3,
    "kimi-k2-1t": KIMI_K2,
    # As they are published: every projection in float8, the routed experts in four bits.
    "deepseek-v3-671b-fp8": {**DEEPSEEK_V3, "quantization_config": FP8},
    "deepseek-r1-671b-nvfp4": {**DEEPSEEK_V3, "quantization_config": NVFP4},
    "deepseek-v4-flash": {**DEEPSEEK_V4, "quantization_config": FP8_FP4},
    "gpt-oss-120b": {**GPT_OSS, "quantization_config": BLOCKS},
    "kimi-k2-thinking-1t-int4": {**KIMI_K2, "quantization_config": INT4},
    "kimi-k3-shaped-2.8t": K3_SHAPED,
    "kimi-k3-shaped-2.8t-mxfp4": {**K3_SHAPED, "quantization_config": MXFP4},
    "kimi-k3-2.8t-mxfp4": {**KIMI_K3, "quantization_config": MXFP4},
}


Parts = tuple[tuple[str, str, tuple[int, ...]], ...]
LINEARS = ("_proj.weight", *(f".{name}.weight" for name in ("w1", "w2", "w3", "wq_a", "wq_b", "wkv", "wo_a", "wo_b")))


def _stored(spec: TensorSpec, said: Mapping[str, Any] | None) -> list[TensorSpec]:
    """What a weight is stored as."""
    if said is BLOCKS and spec.name.endswith(("gate_up_proj", "down_proj")):
        experts, columns, rows = spec.shape
        parts: Parts = (("_blocks", "U8", (experts, rows, columns // 32, 16)), ("_scales", "U8", (experts, rows, columns // 32)))
        return [TensorSpec(spec.name + end, dtype, shape) for end, dtype, shape in parts]
    if said is None or said is BLOCKS or not spec.name.endswith(LINEARS):
        return [spec]
    stem = spec.name.removesuffix(".weight")
    expert = ".experts." in spec.name
    parts = _float8(said, *spec.shape) if said is FP8 or (said is FP8_FP4 and not expert) else _four_bits(said, *spec.shape)
    return [TensorSpec(stem + end, dtype, shape) for end, dtype, shape in parts] if expert or said in (FP8, FP8_FP4) else [spec]


def _float8(said: Mapping[str, Any], rows: int, columns: int) -> Parts:
    blocks = (-(-rows // 128), -(-columns // 128))
    scale = (".weight_scale_inv", "F32", blocks) if said is FP8 else (".scale", "F8_E8M0", blocks)
    return ((".weight", "F8_E4M3", (rows, columns)), scale)


def _four_bits(said: Mapping[str, Any], rows: int, columns: int) -> Parts:
    packed, groups = (rows, columns // 2), (rows, columns // 32)
    if said is FP8_FP4:
        return ((".weight", "I8", packed), (".scale", "F8_E8M0", groups))
    if said is MXFP4:
        return ((".weight_packed", "U8", packed), (".weight_scale", "U8", groups))
    if said is NVFP4:
        scales = ((".weight_scale", "F8_E4M3", (rows, columns // 16)), (".weight_scale_2", "F32", ()), (".input_scale", "F32", ()))
        return ((".weight", "U8", packed), *scales)
    return ((".weight_packed", "I32", (rows, columns // 8)), (".weight_scale", "BF16", groups), (".weight_shape", "I32", (2,)))


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
