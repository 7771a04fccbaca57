"""Gemma 4 for small devices: each layer is fed an input of its own, and layers at the end use the keys and values of earlier ones.

transformers 5.23, Gemma4TextDecoderLayer.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING_ROWS
from convsvc.blocks.own import own
from convsvc.families import gemma4

PER_LAYER_ENDS = (
    own("model.embed_tokens_per_layer.weight", "layer_vocab all_layer_inputs"),
    own("model.per_layer_model_projection.weight", "all_layer_inputs hidden"),
    own("model.per_layer_projection_norm.weight", "layer_input"),
)
FIELDS = (
    "per_layer_config",
    "attention_k_eq_v",
    "global_head_dim",
    "num_global_key_value_heads",
    "num_kv_shared_layers",
    "enable_moe_block",
    "top_k_experts",
)
# The small ones.
FAMILY = replace(
    gemma4.FAMILY,
    name="gemma4-edge",
    title="Gemma 4 (text), with an input of its own for each layer",
    embedding=EMBEDDING_ROWS + PER_LAYER_ENDS,
    distinguish=lambda facts: bool(facts.get("hidden_size_per_layer_input")),
    fields=(*FIELDS, "hidden_size_per_layer_input", "vocab_size_per_layer_input", "use_double_wide_mlp"),
)
