"""Megatron-mcore's names for the logical tensors, and the axis each parallelism slices: one module a mechanism, as in `blocks`.

Facts: MindSpeed-LLM commit c77308a1, what `convert_ckpt_v2.py` writes; Megatron-LM core 0.16 for what training loads.
"""

from __future__ import annotations

from convsvc.dialects.mindspeed_llm.tables.attention import GQA, NORMS, TE_FUSED_DENSE_NORMS, TE_FUSED_NORMS
from convsvc.dialects.mindspeed_llm.tables.compressed_attention import COMPRESSED_ATTENTION
from convsvc.dialects.mindspeed_llm.tables.ends import (
    FINAL_NORMS,
    FINAL_NORMS_AFTER_MTP,
    FIRST,
    LAST_EMBEDDINGS,
    MTP_OWN,
    OUTPUT_BIASES,
    OUTPUTS,
    TIED_OUTPUTS,
)
from convsvc.dialects.mindspeed_llm.tables.feed_forward import (
    DENSE,
    GROUPED_EXPERTS,
    ROUTERS,
    SEQUENTIAL_EXPERTS,
    SHARED_EXPERTS,
    TE_GROUPED_EXPERTS,
)
from convsvc.dialects.mindspeed_llm.tables.hyper_connections import HYPER_CONNECTIONS, JOINED_NORMS, JOINED_STREAMS, MTP_JOINED_STREAMS
from convsvc.dialects.mindspeed_llm.tables.linear_attention import LINEAR_ATTENTION
from convsvc.dialects.mindspeed_llm.tables.mamba import MAMBA_FINAL_NORMS, MIXERS
from convsvc.dialects.mindspeed_llm.tables.mla import INDEXERS, MLA, MLA_UP, MLA_UP_SPLIT
from convsvc.dialects.mindspeed_llm.tables.sublayers import SUBLAYERS, ZERO_EXPERT_ROUTERS
from convsvc.tensors.declare import Row

# A layer's rows, whatever the family: those apply whose logical tensors it has.
LAYER: tuple[Row, ...] = (
    NORMS + GQA + DENSE + ROUTERS + SHARED_EXPERTS + MLA + INDEXERS + SUBLAYERS + ZERO_EXPERT_ROUTERS + LINEAR_ATTENTION
    + COMPRESSED_ATTENTION + HYPER_CONNECTIONS + MIXERS
)  # fmt: skip
MTP_LAYER: tuple[Row, ...] = MTP_OWN + MTP_JOINED_STREAMS
# What some families have in place of a decoder's final norm.
FURTHER_ENDS: tuple[Row, ...] = JOINED_NORMS + JOINED_STREAMS + MAMBA_FINAL_NORMS

__all__ = [
    "FINAL_NORMS",
    "FINAL_NORMS_AFTER_MTP",
    "FIRST",
    "FURTHER_ENDS",
    "GROUPED_EXPERTS",
    "LAST_EMBEDDINGS",
    "LAYER",
    "MLA_UP",
    "MLA_UP_SPLIT",
    "MTP_LAYER",
    "OUTPUTS",
    "OUTPUT_BIASES",
    "SEQUENTIAL_EXPERTS",
    "TE_FUSED_DENSE_NORMS",
    "TE_FUSED_NORMS",
    "TE_GROUPED_EXPERTS",
    "TIED_OUTPUTS",
]
