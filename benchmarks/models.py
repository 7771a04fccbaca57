"""Checkpoints with bytes in them, in real shapes: made by ourselves, the same on every machine.

    python -m benchmarks.models ROOT MODEL LAYERS

writes one; a benchmark does so in a process of its own, so that its memory is nobody else's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import find_family
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.models.facts import Facts
from convsvc.models.family import Wanted

SHARD_BYTES = 2 * 10**9
# Weights as they are, small and normal, repeated with a shift from tensor to tensor. Random bits will not do: most of them are too
# large for 16-bit floats, and casting what overflows takes ten times as long.
NOISE_BYTES = 16 << 20

# The shape of Qwen3-30B-A3B; 5 layers of it are 7 GB.
MOE: Mapping[str, Any] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 5,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# The shape of Qwen3-8B with a smaller vocabulary; 10 layers of it are 4 GB.
DENSE: Mapping[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 10,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# Every rank holds its part of the vocabulary: for many ranks it must not outweigh the experts.
MOE_SMALL_VOCAB: Mapping[str, Any] = {**MOE, "vocab_size": 8192}
# The shape of Qwen2-VL-7B with a smaller vocabulary; 5 layers of it, with all of its image encoder, are 4 GB.
VISION: Mapping[str, Any] = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "num_hidden_layers": 5,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
    },
}
MODELS = {"vision": VISION, "moe": MOE, "dense": DENSE, "moe-small-vocab": MOE_SMALL_VOCAB}


def write_model(root: Path, config: Mapping[str, Any]) -> int:
    """Writes a Hugging Face directory of this configuration in bf16, as others write it: aligned to 8 bytes. Answers its bytes."""
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    facts = Facts(config, "the benchmark")
    model = find_family(None, facts).build(facts, Wanted(num_mtp=0))
    specs = [TensorSpec(laid.name, "BF16", laid.shape) for laid in lay_model(model).kinds]
    shards = list(cut_shards(specs, SHARD_BYTES))
    weights = np.random.default_rng(20).standard_normal(NOISE_BYTES // 2, np.float32) * np.float32(0.02)
    noise = memoryview((weights.view(np.uint32) >> np.uint32(16)).astype(np.uint16)).cast("B")
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {spec.name: name for spec in shard}
        total += _write_shard(root / name, shard, noise)
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return total


def _write_shard(path: Path, shard: list[TensorSpec], noise: memoryview) -> int:
    skeleton = safetensors.plan_skeleton(shard, align=8)
    with open(path, "wb", buffering=0) as file:
        file.write(skeleton.segments[0][1])
        for number, spec in enumerate(shard):
            left, at = spec.size_bytes, number * 4098 % NOISE_BYTES
            while left:
                left -= file.write(noise[at : at + left])
                at = 0
    return skeleton.size_bytes


def cut_shards(specs: list[TensorSpec], most_bytes: int) -> Iterator[list[TensorSpec]]:
    """The tensors, in their order, in files of at most so many bytes, or of one tensor."""
    """The tensors, in their order, in files of at most SHARD_BYTES, or of one tensor."""
    shard: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if shard and size + spec.size_bytes > most_bytes:
            yield shard
            shard, size = [], 0
        shard.append(spec)
        size += spec.size_bytes
    if shard:
        yield shard


if __name__ == "__main__":
    write_model(Path(sys.argv[1]), {**MODELS[sys.argv[2]], "num_hidden_layers": int(sys.argv[3])})
