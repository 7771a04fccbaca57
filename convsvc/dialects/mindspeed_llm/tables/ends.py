"""What lies after the layers and is not the decoder's, as it is in Megatron."""

from __future__ import annotations

from convsvc.blocks.embeddings import FINAL_NORM, FINAL_NORM_BIAS
from convsvc.blocks.mtp import MTP_NORM
from convsvc.tensors.declare import row

# With MTP layers the final norm is no longer the decoder's.
FINAL_NORMS_AFTER_MTP = (
    row("final_layernorm.weight", FINAL_NORM,      "hidden"),
    row("final_layernorm.bias",   FINAL_NORM_BIAS, "hidden"),
)  # fmt: skip
MTP_NORMS = (row("mtp.final_layernorms.{mtp}.weight", MTP_NORM, "hidden"),)
