"""The text decoder: Megatron's names, and Hugging Face's parts under them (`enable_canonical_hf_struct`).

Facts: what mm-convert writes (commit 57069cd5).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import PROJ, QKV, QKV_BIAS
from convsvc.dialects.mcore.tables import Layers, Tables, local
from convsvc.dialects.mcore.tables.attention import GQA
from convsvc.dialects.mcore.tables.ends import EMBEDDINGS, FINAL_NORMS, OUTPUT_BIASES, OUTPUTS, TIED_OUTPUTS
from convsvc.dialects.mcore.tables.feed_forward import DENSE, ROUTERS, SHARED_EXPERTS
from convsvc.tensors.declare import row

FORMAT = "mindspeed-mm"
CANONICAL_ATTENTION = (
    row("self_attention.q_proj.weight",       QKV.at(slot="0:query"),            "(group slot head_dim) hidden",   tp="group"),
    row("self_attention.k_proj.weight",       QKV.at(slot="query"),              "(group head_dim) hidden",        tp="group"),
    row("self_attention.v_proj.weight",       QKV.at(slot="query + 1"),          "(group head_dim) hidden",        tp="group"),
    row("self_attention.q_proj.bias",         QKV_BIAS.at(slot="0:query"),       "(group slot head_dim)",          tp="group"),
    row("self_attention.k_proj.bias",         QKV_BIAS.at(slot="query"),         "(group head_dim)",               tp="group"),
    row("self_attention.v_proj.bias",         QKV_BIAS.at(slot="query + 1"),     "(group head_dim)",               tp="group"),
    row("self_attention.linear_proj.weight",  PROJ,                              "hidden (group query head_dim)",  tp="group"),
)  # fmt: skip
CANONICAL_GLU = (
    row("mlp.gate_proj.weight",  FC1.at(glu="0"),       "ffn hidden",  tp="ffn"),
    row("mlp.up_proj.weight",    FC1.at(glu="1"),       "ffn hidden",  tp="ffn"),
    row("mlp.gate_proj.bias",    FC1_BIAS.at(glu="0"),  "ffn",         tp="ffn"),
    row("mlp.up_proj.bias",      FC1_BIAS.at(glu="1"),  "ffn",         tp="ffn"),
    row("mlp.linear_fc2.weight", FC2,                   "hidden ffn",  tp="ffn"),
    row("mlp.linear_fc2.bias",   FC2_BIAS,              "hidden"),
)  # fmt: skip
FUSED = Layers(
    dense=local.NORMS + GQA + DENSE,
    sparse=local.NORMS + GQA + ROUTERS + SHARED_EXPERTS,
    experts=local.EXPERTS,
    grouped=(),
)
CANONICAL = replace(FUSED, dense=local.NORMS + CANONICAL_ATTENTION + CANONICAL_GLU, sparse=(), experts=())
TEXT = Tables(
    FORMAT,
    FUSED,
    FUSED,
    embedding=EMBEDDINGS,
    norms=FINAL_NORMS,
    norms_after_mtp=FINAL_NORMS,
    outputs=OUTPUTS,
    output_biases=OUTPUT_BIASES,
    tied=TIED_OUTPUTS,
    mtp=(),
    last_embedding=(),
    prefix="text_decoder.",
)
CANONICAL_TEXT = replace(TEXT, local=CANONICAL, te=CANONICAL)
