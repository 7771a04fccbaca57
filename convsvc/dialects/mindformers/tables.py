"""MindSpore Transformers' names for the logical tensors, and the axis that each parallelism slices.

Facts: mindformers 2.1.0, weight templates of models/*/utils.py and parallel_core; weights are [out, in], as torch keeps them. Two of its
layouts depend on flags of the training configuration, which no checkpoint records (`Flags`).
"""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT, OUTPUT_BIAS
from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import K_NORM, PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, Q_NORM, QKV, QKV_BIAS
from convsvc.blocks.mla import KV_DOWN, KV_DOWN_NORM, KV_UP, LATENT_PROJ, Q_DOWN, Q_DOWN_NORM, Q_UP, Q_WHOLE
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, ROUTER_BIAS, SHARED_FC1, SHARED_FC2, SHARED_GATE
from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_NORM
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.dialects.templates import check_module, rows_that_fit
from convsvc.models.model import Model
from convsvc.models.scope import DECODER, Rows, Scope
from convsvc.tensors.declare import row


@dataclass(frozen=True, slots=True)
class Flags:
    """How a model was trained, as far as its layout follows from it; the defaults are training's.

    `interleaved_mlp`: row 2i of linear_fc1 is the gate's i-th, row 2i + 1 up's (use_interleaved_weight_layout_mlp). `contiguous_attention`:
    all queries, all keys, all values instead of group after group (use_contiguous_weight_layout_attention). `stacked_experts`: weight1 and
    weight2 have an axis for the experts, instead of having it in their rows.
    """

    interleaved_mlp: bool = True
    contiguous_attention: bool = False
    stacked_experts: bool = False


EMBEDDINGS = (row("embedding.word_embeddings.weight", EMBEDDING, "vocab hidden", tp="vocab"),)
ENDS = (
    row("decoder.final_layernorm.weight", FINAL_NORM,      "hidden"),
    row("decoder.final_layernorm.bias",   FINAL_NORM_BIAS, "hidden"),
    row("output_layer.weight",            OUTPUT,          "vocab hidden", tp="vocab"),
    row("output_layer.bias",              OUTPUT_BIAS,     "vocab",        tp="vocab"),
)  # fmt: skip
NORMS = (
    row("input_layernorm.weight",   INPUT_NORM,        "hidden"),
    row("input_layernorm.bias",     INPUT_NORM_BIAS,   "hidden"),
    row("pre_mlp_layernorm.weight", PRE_MLP_NORM,      "hidden"),
    row("pre_mlp_layernorm.bias",   PRE_MLP_NORM_BIAS, "hidden"),
)  # fmt: skip
GROUPED_QKV = (
    row("self_attention.linear_qkv.weight", QKV,      "(group slot head_dim) hidden", tp="group"),
    row("self_attention.linear_qkv.bias",   QKV_BIAS, "(group slot head_dim)",        tp="group"),
)  # fmt: skip
CONTIGUOUS_QKV = (
    row("self_attention.linear_qkv.weight", PACKED_QKV,      tp="group"),
    row("self_attention.linear_qkv.bias",   PACKED_QKV_BIAS, tp="group"),
)  # fmt: skip
ATTENTION = (
    row("self_attention.linear_proj.weight", PROJ,      "hidden (group query head_dim)", tp="group"),
    row("self_attention.linear_proj.bias",   PROJ_BIAS, "hidden"),
    row("self_attention.q_layernorm.weight", Q_NORM,    "head_dim"),
    row("self_attention.k_layernorm.weight", K_NORM,    "head_dim"),
)  # fmt: skip
MLA = (
    row("self_attention.linear_q_proj.weight",       Q_WHOLE,      "(head query_dim) hidden",  tp="head"),
    row("self_attention.linear_q_down_proj.weight",  Q_DOWN,       "q_rank hidden"),
    row("self_attention.q_layernorm.weight",         Q_DOWN_NORM,  "q_rank"),
    row("self_attention.linear_q_up_proj.weight",    Q_UP,         "(head query_dim) q_rank",  tp="head"),
    row("self_attention.linear_kv_down_proj.weight", KV_DOWN,      "latent hidden"),
    row("self_attention.kv_layernorm.weight",        KV_DOWN_NORM, "kv_rank"),
    row("self_attention.linear_kv_up_proj.weight",   KV_UP,        "(head key_value) kv_rank", tp="head"),
    row("self_attention.linear_proj.weight",         LATENT_PROJ,  "hidden (head value_dim)",  tp="head"),
)  # fmt: skip
INTERLEAVED_FC1 = (
    row("mlp.linear_fc1.weight",                FC1,        "(ffn glu) hidden",        tp="ffn"),
    row("mlp.linear_fc1.bias",                  FC1_BIAS,   "(ffn glu)",               tp="ffn"),
    row("mlp.shared_experts.linear_fc1.weight", SHARED_FC1, "(shared_ffn glu) hidden", tp="shared_ffn"),
)  # fmt: skip
CONCATENATED_FC1 = (
    row("mlp.linear_fc1.weight",                FC1,        "(glu ffn) hidden",        tp="ffn"),
    row("mlp.linear_fc1.bias",                  FC1_BIAS,   "(glu ffn)",               tp="ffn"),
    row("mlp.shared_experts.linear_fc1.weight", SHARED_FC1, "(glu shared_ffn) hidden", tp="shared_ffn"),
)  # fmt: skip
FEED_FORWARD = (
    row("mlp.linear_fc2.weight",                FC2,         "hidden ffn",         tp="ffn"),
    row("mlp.linear_fc2.bias",                  FC2_BIAS,    "hidden"),
    row("mlp.router.weight",                    ROUTER,      "expert hidden"),
    row("mlp.router.expert_bias",               ROUTER_BIAS, "expert"),
    row("mlp.shared_experts.gate_weight",       SHARED_GATE, "shared_gate hidden"),
    row("mlp.shared_experts.linear_fc2.weight", SHARED_FC2,  "hidden shared_ffn",  tp="shared_ffn"),
)  # fmt: skip
# An expert's matrices are [in, out] here, the gate's columns before up's, whatever the flag for linear_fc1 says.
FLAT_EXPERTS = (
    row("mlp.experts.weight1", EXPERT_FC1, "(expert hidden) (glu expert_ffn)", ep="expert", etp="expert_ffn"),
    row("mlp.experts.weight2", EXPERT_FC2, "(expert expert_ffn) hidden",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
STACKED_EXPERTS = (
    row("mlp.experts.weight1", EXPERT_FC1, "expert hidden (glu expert_ffn)", ep="expert", etp="expert_ffn"),
    row("mlp.experts.weight2", EXPERT_FC2, "expert expert_ffn hidden",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
MTP_LAYER = (
    row("enorm.weight",           E_NORM,   "hidden"),
    row("hnorm.weight",           H_NORM,   "hidden"),
    row("eh_proj.weight",         EH_PROJ,  "hidden (part input)"),
    row("final_layernorm.weight", MTP_NORM, "hidden"),
)  # fmt: skip


def rows_of(scope: Scope, model: Model, flags: Flags) -> Rows:
    """The rows that hold a scope's logical tensors. Raises LayoutError if one has no place in this dialect."""
    check_module(scope.module, (DECODER,), "mindformers")
    return rows_that_fit(scope, model, _table(scope, flags), "mindformers")


def _table(scope: Scope, flags: Flags) -> Rows:
    if scope.kind == "embedding":
        return EMBEDDINGS
    if scope.kind == "output":
        return ENDS
    if scope.kind == "mtp":
        return MTP_LAYER
    qkv = CONTIGUOUS_QKV if flags.contiguous_attention else GROUPED_QKV
    fc1 = INTERLEAVED_FC1 if flags.interleaved_mlp else CONCATENATED_FC1
    experts = STACKED_EXPERTS if flags.stacked_experts else FLAT_EXPERTS
    return NORMS + qkv + ATTENTION + MLA + fc1 + FEED_FORWARD + experts


def prefix_of(scope: Scope) -> str:
    """What goes before a scope's stored names: Megatron's, which the logical names bear, too."""
    return "" if scope.kind in ("embedding", "output") else scope.logical
