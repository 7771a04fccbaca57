"""A real checkpoint, small enough to be converted in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


def write_llama(path: Path, layers: int = 2) -> Path:
    """A Llama with random weights, as a Hugging Face directory; answers `path`."""
    path.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": False}
    (path / "config.json").write_text(json.dumps({**config, **SIZES}))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (64, 16), "lm_head": (64, 16), "model.norm": (16,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer().items()}
    save_file({f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}, path / "model.safetensors")
    return path


def _layer() -> dict[str, tuple[int, ...]]:
    attention = {f"self_attn.{name}_proj": (8 if name in "kv" else 16, 16) for name in "qkvo"}
    feed_forward = {"mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16), "mlp.down_proj": (16, 32)}
    return {**attention, **feed_forward, "input_layernorm": (16,), "post_attention_layernorm": (16,)}
