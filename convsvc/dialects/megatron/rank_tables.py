"""NVIDIA's rank files: what a rank has of each logical tensor under its module's name, of Transformer Engine's layers or Megatron's own.

What a checkpoint of global keys has apart lies here in one matrix, each part cut for itself. Facts: megatron-core 0.16.1, the modules'
parameters (gpt_layer_specs.py; transformer/multi_latent_attention.py: Megatron's own down projections are cut, Transformer Engine's are
not; ssm/gated_delta_net.py, ssm/mamba_mixer.py).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.linear_attention import (
    DELTA_A_LOG,
    DELTA_CONV,
    DELTA_DT_BIAS,
    DELTA_NORM,
    DELTA_OUT,
)
from convsvc.blocks.mamba import MIXER_NORM, MIXER_OUT
from convsvc.blocks.mla import KV_DOWN, KV_DOWN_NORM, KV_UP, LATENT_PROJ, Q_DOWN, Q_DOWN_NORM, Q_UP, Q_WHOLE
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.dialects.mcore.tables import Layers, Tables, local, te
from convsvc.dialects.mcore.tables.attention import GQA
from convsvc.dialects.mcore.tables.ends import EMBEDDINGS, FINAL_NORMS, LAST_EMBEDDINGS, OUTPUT_BIASES, OUTPUTS, TIED_OUTPUTS
from convsvc.dialects.mcore.tables.feed_forward import DENSE, ROUTERS, SHARED_EXPERTS
from convsvc.dialects.mcore.tables.mamba import MAMBA_FINAL_NORMS, MIXERS
from convsvc.dialects.megatron.tables import ALPHA, BETA, FORMAT, GATE, GATED_ATTENTION, KEY, LESS_ONE, MTP, QUERY, VALUE
from convsvc.tensors.declare import Row, part, row

FEED_FORWARD = DENSE + ROUTERS + SHARED_EXPERTS
ALIKE = GQA + GATED_ATTENTION + FEED_FORWARD

UP = (
    row("self_attention.linear_q_proj.weight",     Q_WHOLE,     "(head query_dim) hidden",  tp="head"),
    row("self_attention.linear_q_up_proj.weight",  Q_UP,        "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_kv_up_proj.weight", KV_UP,       "(head key_value) kv_rank", tp="head"),
    row("self_attention.linear_proj.weight",       LATENT_PROJ, "hidden (head value_dim)",  tp="head"),
)  # fmt: skip
LATENT_NORM = (row("input_layernorm.weight", INPUT_NORM, "hidden"),)
LATENT_TE = (
    *LATENT_NORM,
    row("self_attention.linear_q_down_proj.weight",           Q_DOWN,       "q_rank hidden"),
    row("self_attention.linear_kv_down_proj.weight",          KV_DOWN,      "latent hidden"),
    row("self_attention.linear_q_up_proj.layer_norm_weight",  Q_DOWN_NORM,  "q_rank"),
    row("self_attention.linear_kv_up_proj.layer_norm_weight", KV_DOWN_NORM, "kv_rank"),
    *UP,
)  # fmt: skip
LATENT_LOCAL = (
    row("self_attention.linear_q_down_proj.weight",  Q_DOWN,       "q_rank hidden", tp="q_rank"),
    row("self_attention.linear_kv_down_proj.weight", KV_DOWN,      "latent hidden", tp="latent"),
    row("self_attention.q_layernorm.weight",         Q_DOWN_NORM,  "q_rank"),
    row("self_attention.kv_layernorm.weight",        KV_DOWN_NORM, "kv_rank"),
    *UP,
)  # fmt: skip
IN_PROJ = (
    part(QUERY, "(key_head qkvz) hidden"), part(KEY, "(key_head qkvz) hidden"), part(VALUE, "(key_head qkvz) hidden"),
    part(GATE, "(key_head qkvz) hidden"), part(BETA, "(key_head ba) hidden"), part(ALPHA, "(key_head ba) hidden"),
)  # fmt: skip
DELTA_NETS = (
    row("self_attention.in_proj.layer_norm_weight", INPUT_NORM, "hidden", also=("input_layernorm.weight",)),
    row("self_attention.in_proj.weight",  IN_PROJ,                                              tp="key_head"),
    row("self_attention.conv1d.weight",   DELTA_CONV,                                           tp="key_head"),
    row("self_attention.A_log",           DELTA_A_LOG,   "(key_head value)",                    tp="key_head"),
    row("self_attention.dt_bias",         DELTA_DT_BIAS, "(key_head value)",                    tp="key_head"),
    row(LESS_ONE,                         DELTA_NORM,    "value_dim"),
    row("self_attention.out_proj.weight", DELTA_OUT,     "hidden (key_head value value_dim)",   tp="key_head"),
)  # fmt: skip
MIXERS_TE = (
    row("mixer.in_proj.layer_norm_weight", MIXER_NORM, "hidden", also=("norm.weight",)),
    *(each for each in MIXERS if each.parts[0].logical != MIXER_NORM),
)  # fmt: skip
DENSE_NORM = (row("mlp.linear_fc1.layer_norm_weight", PRE_MLP_NORM, "hidden"),)
SPARSE_NORM = (row("pre_mlp_layernorm.weight", PRE_MLP_NORM, "hidden"),)


def _layers(attention: tuple[Row, ...], of: Layers) -> Layers:
    """Layers with another attention and the norm before it; feed-forward blocks are as others have them."""
    if of is LOCAL:
        return replace(of, dense=attention + SPARSE_NORM + FEED_FORWARD, sparse=attention + SPARSE_NORM + FEED_FORWARD)
    return replace(of, dense=attention + DENSE_NORM + FEED_FORWARD, sparse=attention + SPARSE_NORM + FEED_FORWARD)


LOCAL = Layers(dense=local.NORMS + ALIKE, sparse=local.NORMS + ALIKE, experts=local.EXPERTS, grouped=local.GROUPED_EXPERTS)
TE = replace(LOCAL, dense=te.DENSE_NORMS + ALIKE, sparse=te.SPARSE_NORMS + ALIKE, experts=te.EXPERTS, grouped=te.GROUPED_EXPERTS)
# Made of Transformer Engine's modules alone (experimental_attention_variant_module_specs.py, models/mamba/mamba_layer_specs.py).
HYBRID = {DELTA_OUT.name: _layers(DELTA_NETS, TE), MIXER_OUT.name: _layers(MIXERS_TE, TE)}
RANK_FILES = Tables(
    FORMAT,
    replace(LOCAL, others={KV_DOWN.name: _layers(LATENT_NORM + LATENT_LOCAL, LOCAL)}),
    replace(TE, others={KV_DOWN.name: _layers(LATENT_TE, TE), **HYBRID}),
    embedding=EMBEDDINGS,
    norms=FINAL_NORMS + MAMBA_FINAL_NORMS,
    norms_after_mtp=FINAL_NORMS + MAMBA_FINAL_NORMS,
    outputs=OUTPUTS,
    output_biases=OUTPUT_BIASES,
    tied=TIED_OUTPUTS,
    mtp=MTP,
    last_embedding=LAST_EMBEDDINGS,
)
