"""A multi-token-prediction layer's own tensors; its transformer layer is one of the family's.

eh_proj takes the embedding and the hidden state side by side: part 0 is the embedding's. Megatron shares the word embedding and
the output layer with the main model, so a copy of them that a checkpoint holds for its MTP layers has no place of its own there.
"""

from __future__ import annotations

from convsvc.tensors.declare import logical, row

E_NORM = logical("enorm.weight", "hidden")
H_NORM = logical("hnorm.weight", "hidden")
EH_PROJ = logical("eh_proj.weight", "hidden part input")
MTP_NORM = logical("final_layernorm.weight", "hidden")
MTP_EMBEDDING = logical("embedding.weight", "vocab hidden")
MTP_OUTPUT = logical("output_layer.weight", "vocab hidden")

MTP = (
    row("enorm.weight", E_NORM, "hidden"),
    row("hnorm.weight", H_NORM, "hidden"),
    row("eh_proj.weight", EH_PROJ, "hidden (part input)"),
)
MTP_SHARED_HEAD_NORM = (row("shared_head.norm.weight", MTP_NORM, "hidden"),)
MTP_FINAL_NORM = (row("final_layernorm.weight", MTP_NORM, "hidden"),)
# Published checkpoints repeat the embedding and the head in every MTP layer; some leave them out.
MTP_COPIES = (
    row("embed_tokens.weight", MTP_EMBEDDING, "vocab hidden", optional=True),
    row("shared_head.head.weight", MTP_OUTPUT, "vocab hidden", optional=True),
)
