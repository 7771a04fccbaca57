"""MindSpeed-LLM's names for the logical tensors: Megatron's, and those of mechanisms that are its own.

Facts: commit c77308a1, what `convert_ckpt_v2.py` writes.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.dialects.mcore.tables import Layers, Tables, local, te
from convsvc.dialects.mcore.tables.attention import GQA
from convsvc.dialects.mcore.tables.ends import EMBEDDINGS, FINAL_NORMS, LAST_EMBEDDINGS, MTP_OWN, OUTPUT_BIASES, OUTPUTS, TIED_OUTPUTS
from convsvc.dialects.mcore.tables.feed_forward import DENSE, ROUTERS, SHARED_EXPERTS
from convsvc.dialects.mcore.tables.mamba import MAMBA_FINAL_NORMS, MIXERS
from convsvc.dialects.mindspeed_llm.tables.attention import NORMS_AFTER, WIDE_NORMS
from convsvc.dialects.mindspeed_llm.tables.compressed_attention import COMPRESSED_ATTENTION
from convsvc.dialects.mindspeed_llm.tables.ends import FINAL_NORMS_AFTER_MTP, MTP_NORMS
from convsvc.dialects.mindspeed_llm.tables.feed_forward import TOKEN_ROUTERS
from convsvc.dialects.mindspeed_llm.tables.hyper_connections import HYPER_CONNECTIONS, JOINED_NORMS, JOINED_STREAMS, MTP_JOINED_STREAMS
from convsvc.dialects.mindspeed_llm.tables.linear_attention import LINEAR_ATTENTION
from convsvc.dialects.mindspeed_llm.tables.mla import INDEXERS, MLA, MLA_UP, MLA_UP_SPLIT
from convsvc.dialects.mindspeed_llm.tables.sublayers import SUBLAYERS, ZERO_EXPERT_ROUTERS

FORMAT = "mindspeed-llm"
# What whoever's modules name alike.
ALIKE = (
    NORMS_AFTER + GQA + WIDE_NORMS + DENSE + ROUTERS + TOKEN_ROUTERS + SHARED_EXPERTS + MLA + INDEXERS + SUBLAYERS + ZERO_EXPERT_ROUTERS
    + LINEAR_ATTENTION + COMPRESSED_ATTENTION + HYPER_CONNECTIONS + MIXERS
)  # fmt: skip
LOCAL = Layers(
    dense=local.NORMS + ALIKE,
    sparse=local.NORMS + ALIKE,
    experts=local.EXPERTS,
    grouped=local.GROUPED_EXPERTS,
    up=MLA_UP,
    split=MLA_UP_SPLIT,
)
TE = replace(LOCAL, dense=te.DENSE_NORMS + ALIKE, sparse=te.SPARSE_NORMS + ALIKE, experts=te.EXPERTS, grouped=te.GROUPED_EXPERTS)
# What some families have in place of a decoder's final norm.
FURTHER_ENDS = JOINED_NORMS + JOINED_STREAMS + MAMBA_FINAL_NORMS
TABLES = Tables(
    FORMAT,
    LOCAL,
    TE,
    embedding=EMBEDDINGS,
    norms=FINAL_NORMS + FURTHER_ENDS,
    norms_after_mtp=FINAL_NORMS_AFTER_MTP + FURTHER_ENDS,
    outputs=OUTPUTS,
    output_biases=OUTPUT_BIASES,
    tied=TIED_OUTPUTS,
    mtp=MTP_OWN + MTP_NORMS + MTP_JOINED_STREAMS,
    last_embedding=LAST_EMBEDDINGS,
)
