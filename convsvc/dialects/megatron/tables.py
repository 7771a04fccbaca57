"""Megatron core's global keys for the logical tensors, as its Transformer Engine layers spell them; `also` are its own modules' names.

A key names a whole tensor: gate rows before up's, all experts of a layer along an axis of their own, the parts of a mixer's projection
one by one. Facts: megatron-core 0.16.1, `sharded_state_dict` of its modules (run on CPU with its own modules; Transformer Engine's names
after core/models/gpt/gpt_layer_specs.py) and `sharded_state_dict_keys_map` there.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.dsa import INDEX_KEY, INDEX_KEY_NORM, INDEX_KEY_NORM_BIAS, INDEX_QUERY, INDEX_WEIGHTS
from convsvc.blocks.linear_attention import (
    DELTA_A_LOG,
    DELTA_BA,
    DELTA_CONV_KEY,
    DELTA_CONV_QUERY,
    DELTA_CONV_VALUE,
    DELTA_DT_BIAS,
    DELTA_NORM,
    DELTA_OUT,
    DELTA_QKVZ,
    GATED_KEY,
    GATED_QUERY,
    GATED_VALUE,
)
from convsvc.blocks.mamba import (
    A_LOG,
    CONV_READ,
    CONV_READ_BIAS,
    CONV_VALUE,
    CONV_VALUE_BIAS,
    CONV_WRITE,
    CONV_WRITE_BIAS,
    GATED_NORM,
    IN_GATE,
    IN_READ,
    IN_STEP,
    IN_VALUE,
    IN_WRITE,
    MIXER_NORM,
    MIXER_OUT,
    SKIP,
    STEP_BIAS,
)
from convsvc.blocks.mla import KV_DOWN, KV_DOWN_NORM, KV_UP, LATENT_PROJ, Q_DOWN, Q_DOWN_NORM, Q_UP, Q_WHOLE
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2
from convsvc.blocks.mtp import MTP_NORM
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.dialects.mcore.tables.attention import GQA
from convsvc.dialects.mcore.tables.ends import EMBEDDINGS, FINAL_NORMS, MTP_OWN, OUTPUT_BIASES, OUTPUTS
from convsvc.dialects.mcore.tables.feed_forward import DENSE, ROUTERS, SHARED_EXPERTS
from convsvc.dialects.mcore.tables.mamba import MAMBA_FINAL_NORMS
from convsvc.dialects.templates import check_module, rows_that_fit
from convsvc.models.model import Model
from convsvc.models.scope import DECODER, Rows, Scope
from convsvc.tensors.declare import part, row

FORMAT = "megatron"

INPUT_NORMS = (
    row("self_attention.linear_qkv.layer_norm_weight", INPUT_NORM,        "hidden", also=("input_layernorm.weight",)),
    row("self_attention.linear_qkv.layer_norm_bias",   INPUT_NORM_BIAS,   "hidden", also=("input_layernorm.bias",)),
)  # fmt: skip
# Latent attention has two projections behind this norm, which stays apart.
INPUT_NORMS_APART = (row("input_layernorm.weight", INPUT_NORM, "hidden"),)
DENSE_NORMS = (
    row("mlp.linear_fc1.layer_norm_weight",            PRE_MLP_NORM,      "hidden", also=("pre_mlp_layernorm.weight",)),
    row("mlp.linear_fc1.layer_norm_bias",              PRE_MLP_NORM_BIAS, "hidden", also=("pre_mlp_layernorm.bias",)),
)  # fmt: skip
SPARSE_NORMS = (
    row("pre_mlp_layernorm.weight",                    PRE_MLP_NORM,      "hidden", also=("mlp.linear_fc1.layer_norm_weight",)),
    row("pre_mlp_layernorm.bias",                      PRE_MLP_NORM_BIAS, "hidden", also=("mlp.linear_fc1.layer_norm_bias",)),
)  # fmt: skip
MLA = (
    row("self_attention.linear_q_proj.weight",                Q_WHOLE,      "(head query_dim) hidden",  tp="head"),
    row("self_attention.linear_q_down_proj.weight",           Q_DOWN,       "q_rank hidden"),
    row("self_attention.linear_kv_down_proj.weight",          KV_DOWN,      "latent hidden"),
    row("self_attention.linear_q_up_proj.layer_norm_weight",  Q_DOWN_NORM,  "q_rank",  also=("self_attention.q_layernorm.weight",)),
    row("self_attention.linear_kv_up_proj.layer_norm_weight", KV_DOWN_NORM, "kv_rank", also=("self_attention.kv_layernorm.weight",)),
    row("self_attention.linear_q_up_proj.weight",             Q_UP,         "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_kv_up_proj.weight",            KV_UP,        "(head key_value) kv_rank", tp="head"),
    row("self_attention.linear_proj.weight",                  LATENT_PROJ,  "hidden (head value_dim)",  tp="head"),
)  # fmt: skip
# core 0.19.2, gpt/experimental_attention_variant_module_specs.py: the indexer wants normed queries, so that norms are modules of their own.
UNFUSED = {
    "self_attention.linear_q_up_proj.layer_norm_weight": "self_attention.q_layernorm.weight",
    "self_attention.linear_kv_up_proj.layer_norm_weight": "self_attention.kv_layernorm.weight",
}
SPARSE_MLA = tuple(
    [replace(each, stored=UNFUSED[each.stored], also=(each.stored,)) if each.stored in UNFUSED else each for each in MLA]
)  # fmt: skip
# core/transformer/experimental_attention_variant/dsa.py, DSAIndexer: duplicated on tensor ranks.
INDEXERS = (
    row("self_attention.core_attention.indexer.linear_wq_b.weight",         INDEX_QUERY,         "(index_head index_dim) q_rank"),
    row("self_attention.core_attention.indexer.linear_wk.weight",           INDEX_KEY,           "index_dim hidden"),
    row("self_attention.core_attention.indexer.k_norm.weight",              INDEX_KEY_NORM,      "index_dim"),
    row("self_attention.core_attention.indexer.k_norm.bias",                INDEX_KEY_NORM_BIAS, "index_dim"),
    row("self_attention.core_attention.indexer.linear_weights_proj.weight", INDEX_WEIGHTS,       "index_head hidden"),
)  # fmt: skip
EXPERTS = (
    row("mlp.experts.experts.linear_fc1.weight", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("mlp.experts.experts.linear_fc2.weight", EXPERT_FC2, "expert hidden expert_ffn"),
)  # fmt: skip
# core/ssm/mamba_mixer.py: what a rank keeps in one matrix has a key for each part, as each is cut by groups.
MIXERS = (
    row("mixer.in_proj.layer_norm_weight", MIXER_NORM, "hidden", also=("norm.weight",)),
    row("mixer.in_proj.weight.z",  IN_GATE,         "(mamba_group mamba_head mamba_dim) hidden"),
    row("mixer.in_proj.weight.x",  IN_VALUE,        "(mamba_group mamba_head mamba_dim) hidden"),
    row("mixer.in_proj.weight.B",  IN_WRITE,        "(mamba_group state) hidden"),
    row("mixer.in_proj.weight.C",  IN_READ,         "(mamba_group state) hidden"),
    row("mixer.in_proj.weight.dt", IN_STEP,         "(mamba_group mamba_head) hidden"),
    row("mixer.conv1d.weight.x",   CONV_VALUE,      "(mamba_group mamba_head mamba_dim) single conv_kernel"),
    row("mixer.conv1d.weight.B",   CONV_WRITE,      "(mamba_group state) single conv_kernel"),
    row("mixer.conv1d.weight.C",   CONV_READ,       "(mamba_group state) single conv_kernel"),
    row("mixer.conv1d.bias.x",     CONV_VALUE_BIAS, "(mamba_group mamba_head mamba_dim)"),
    row("mixer.conv1d.bias.B",     CONV_WRITE_BIAS, "(mamba_group state)"),
    row("mixer.conv1d.bias.C",     CONV_READ_BIAS,  "(mamba_group state)"),
    row("mixer.A_log",             A_LOG,           "(mamba_group mamba_head)"),
    row("mixer.D",                 SKIP,            "(mamba_group mamba_head)"),
    row("mixer.dt_bias",           STEP_BIAS,       "(mamba_group mamba_head)"),
    row("mixer.norm.weight",       GATED_NORM,      "(mamba_group mamba_head mamba_dim)"),
    row("mixer.out_proj.weight",   MIXER_OUT,       "hidden (mamba_group mamba_head mamba_dim)"),
)  # fmt: skip
# core/transformer/attention.py, get_query_key_value_tensors with output_gate: a group's queries, their gates, its key, its value.
GATED_QKV = (
    part(GATED_QUERY, "(group gated query head_dim) hidden"),
    part(GATED_KEY,   "(group head_dim) hidden"),
    part(GATED_VALUE, "(group head_dim) hidden"),
)  # fmt: skip
GATED_ATTENTION = (row("self_attention.linear_qkv.weight", GATED_QKV, within="group", tp="group"),)
# core/ssm/gated_delta_net.py: one projection makes queries, keys, values, gates, beta and alpha, each of all heads; each has a key.
QUERY, KEY = DELTA_QKVZ.at(qkvz="0:key_dim"), DELTA_QKVZ.at(qkvz="key_dim:2 * key_dim")
VALUE, GATE = DELTA_QKVZ.at(qkvz="2 * key_dim:2 * key_dim + value * value_dim"), DELTA_QKVZ.at(qkvz="2 * key_dim + value * value_dim:qkvz")
BETA, ALPHA = DELTA_BA.at(ba="0:value"), DELTA_BA.at(ba="value:ba")
DELTA_NORMS = (row("self_attention.in_proj.layer_norm_weight", INPUT_NORM, "hidden", also=("input_layernorm.weight",)),)
DELTA_NETS = (
    row("self_attention.in_proj.weight.query",  QUERY, "(key_head qkvz) hidden"),
    row("self_attention.in_proj.weight.key",    KEY,   "(key_head qkvz) hidden"),
    row("self_attention.in_proj.weight.value",  VALUE, "(key_head qkvz) hidden"),
    row("self_attention.in_proj.weight.z",      GATE,  "(key_head qkvz) hidden"),
    row("self_attention.in_proj.weight.beta",   BETA,  "(key_head ba) hidden"),
    row("self_attention.in_proj.weight.alpha",  ALPHA, "(key_head ba) hidden"),
    row("self_attention.conv1d.weight.query",   DELTA_CONV_QUERY, "(key_head key_dim) single conv_kernel"),
    row("self_attention.conv1d.weight.key",     DELTA_CONV_KEY,   "(key_head key_dim) single conv_kernel"),
    row("self_attention.conv1d.weight.value",   DELTA_CONV_VALUE, "(key_head value value_dim) single conv_kernel"),
    row("self_attention.A_log",                 DELTA_A_LOG,      "(key_head value)"),
    row("self_attention.dt_bias",               DELTA_DT_BIAS,    "(key_head value)"),
    row("self_attention.out_norm.weight",       DELTA_NORM,       "value_dim"),
    row("self_attention.out_proj.weight",       DELTA_OUT,        "hidden (key_head value value_dim)"),
)  # fmt: skip
# Stored as all norms are under layernorm_zero_centered_gamma, and not so by Hugging Face, whose other norms are.
LESS_ONE = "self_attention.out_norm.weight"
MTP = (*MTP_OWN, row("mtp.layers.{mtp}.final_layernorm.weight", MTP_NORM, "hidden"))
ALIKE = GQA + GATED_ATTENTION + DELTA_NETS + DENSE + ROUTERS + SHARED_EXPERTS + EXPERTS + MIXERS


def key_rows(scope: Scope, model: Model) -> Rows:
    """The keys that hold a scope's logical tensors, less the layers' prefix. Raises LayoutError if one has no place in Megatron core."""
    check_module(scope.module, (DECODER,), FORMAT)
    return rows_that_fit(scope, model, _table(scope, model), FORMAT)


def is_latent(scope: Scope) -> bool:
    """Whether a layer's attention is latent."""
    return KV_DOWN.name in scope.logicals


def has_indexers(model: Model) -> bool:
    """Whether its attention is sparse, as an indexer chooses; a layer may use that of one before it."""
    return model.layers_have(INDEX_KEY)


def is_delta_net(scope: Scope) -> bool:
    """Whether a layer's attention is a gated delta net."""
    return DELTA_OUT.name in scope.logicals


def _table(scope: Scope, model: Model) -> Rows:
    if scope.kind == "embedding":
        return EMBEDDINGS
    if scope.kind == "output":
        return FINAL_NORMS + MAMBA_FINAL_NORMS + (() if model.tied else OUTPUTS) + OUTPUT_BIASES
    if scope.kind == "mtp":
        return tuple(replace(each, stored=each.stored.format(mtp=scope.number)) for each in MTP)
    norms = INPUT_NORMS_APART if is_latent(scope) else DELTA_NORMS if is_delta_net(scope) else INPUT_NORMS
    latent = SPARSE_MLA + INDEXERS if has_indexers(model) else MLA
    return norms + (DENSE_NORMS if scope.dense else SPARSE_NORMS) + latent + ALIKE
