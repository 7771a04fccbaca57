"""What lies before and after the layers: embedding, final norm, output layer, MTP layers."""

from __future__ import annotations

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT, OUTPUT_BIAS, POSITIONS
from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_EMBEDDING
from convsvc.tensors.declare import row

EMBEDDINGS = (
    row("embedding.word_embeddings.weight",     EMBEDDING, "vocab hidden", tp="vocab"),
    row("embedding.position_embeddings.weight", POSITIONS, "position hidden"),
)  # fmt: skip
FINAL_NORMS = (
    row("decoder.final_layernorm.weight", FINAL_NORM,      "hidden"),
    row("decoder.final_layernorm.bias",   FINAL_NORM_BIAS, "hidden"),
)  # fmt: skip
OUTPUTS = (row("output_layer.weight", OUTPUT, "vocab hidden", tp="vocab"),)
# Not shared with the embedding, whether or not the weight is.
OUTPUT_BIASES = (row("output_layer.bias", OUTPUT_BIAS, "vocab", tp="vocab"),)
# Megatron's last stage wants its own copy of a tied embedding; with one stage there is none.
TIED_OUTPUTS = (row("output_layer.weight", EMBEDDING, "vocab hidden", tp="vocab", optional=True),)

MTP_OWN = (
    row("mtp.layers.{mtp}.enorm.weight",      E_NORM,   "hidden"),
    row("mtp.layers.{mtp}.hnorm.weight",      H_NORM,   "hidden"),
    row("mtp.layers.{mtp}.eh_proj.weight",    EH_PROJ,  "hidden (part input)", tp="hidden"),
)  # fmt: skip
# The last stage embeds the shifted tokens itself; with one stage it uses the first's.
LAST_EMBEDDINGS = (
    row("embedding.word_embeddings.weight", MTP_EMBEDDING, "vocab hidden", tp="vocab"),
    row("embedding.word_embeddings.weight", EMBEDDING,     "vocab hidden", tp="vocab", optional=True),
)  # fmt: skip
