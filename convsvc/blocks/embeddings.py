"""Word embeddings, the final norm, the output layer."""

from __future__ import annotations

from convsvc.tensors.declare import logical, row

EMBEDDING = logical("embedding.word_embeddings.weight", "vocab hidden")
FINAL_NORM = logical("final_layernorm.weight", "hidden")
FINAL_NORM_BIAS = logical("final_layernorm.bias", "hidden")
OUTPUT = logical("output_layer.weight", "vocab hidden")
OUTPUT_BIAS = logical("output_layer.bias", "vocab")

# Positions that are learned, as Megatron has them.
POSITIONS = logical("embedding.position_embeddings.weight", "position hidden")

EMBEDDING_ROWS = (row("model.embed_tokens.weight", EMBEDDING, "vocab hidden"),)
FINAL_NORM_ROWS = (row("model.norm.weight", FINAL_NORM, "hidden"),)
OUTPUT_ROWS = (row("lm_head.weight", OUTPUT, "vocab hidden"),)
FINAL_NORM_BIAS_ROWS = (row("model.norm.bias", FINAL_NORM_BIAS, "hidden", optional=True),)
OUTPUT_BIAS_ROWS = (row("lm_head.bias", OUTPUT_BIAS, "vocab", optional=True),)
# A tied model's head is its embedding. Some savers write it twice.
TIED_OUTPUT_ROWS = (row("lm_head.weight", EMBEDDING, "vocab hidden", optional=True, written=False),)
# As a LayerNorm, both of whose halves are there.
FINAL_LAYER_NORM = (*FINAL_NORM_ROWS, row("model.norm.bias", FINAL_NORM_BIAS, "hidden"))
