"""Megatron-mcore's names for the logical tensors, and the axis each parallelism slices.

Facts: MindSpeed-LLM commit c77308a1, what `convert_ckpt_v2.py` writes; Megatron-LM core 0.16 for what training loads.
"""

from __future__ import annotations

from convsvc.families.blocks.embeddings import EMBEDDING, FINAL_NORM, OUTPUT
from convsvc.families.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.families.blocks.gqa import K_NORM, PROJ, PROJ_BIAS, Q_NORM, QKV, QKV_BIAS
from convsvc.families.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER
from convsvc.families.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.tensors.declare import row

LAYER = (
    row("input_layernorm.weight",                INPUT_NORM,   "hidden"),
    row("pre_mlp_layernorm.weight",              PRE_MLP_NORM, "hidden"),
    row("self_attention.linear_qkv.weight",      QKV,          "(group slot head_dim) hidden",   tp="group"),
    row("self_attention.linear_qkv.bias",        QKV_BIAS,     "(group slot head_dim)",          tp="group"),
    row("self_attention.linear_proj.weight",     PROJ,         "hidden (group query head_dim)",  tp="group"),
    row("self_attention.linear_proj.bias",       PROJ_BIAS,    "hidden"),
    row("self_attention.q_layernorm.weight",     Q_NORM,       "head_dim"),
    row("self_attention.k_layernorm.weight",     K_NORM,       "head_dim"),
    row("mlp.linear_fc1.weight",                 FC1,          "(glu ffn) hidden",               tp="ffn"),
    row("mlp.linear_fc1.bias",                   FC1_BIAS,     "(glu ffn)",                      tp="ffn"),
    row("mlp.linear_fc2.weight",                 FC2,          "hidden ffn",                     tp="ffn"),
    row("mlp.linear_fc2.bias",                   FC2_BIAS,     "hidden"),
    row("mlp.router.weight",                     ROUTER,       "expert hidden"),
)  # fmt: skip
SEQUENTIAL_EXPERTS = (
    row("mlp.experts.local_experts.{expert}.linear_fc1.weight", EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.local_experts.{expert}.linear_fc2.weight", EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
GROUPED_EXPERTS = (
    row("mlp.experts.weight1", EXPERT_FC1, "expert hidden (glu expert_ffn)", shape="hidden (expert glu expert_ffn)", ep="expert", etp="expert_ffn"),
    row("mlp.experts.weight2", EXPERT_FC2, "(expert expert_ffn) hidden",                                            ep="expert", etp="expert_ffn"),
)  # fmt: skip
TE_GROUPED_EXPERTS = (
    row("mlp.experts.linear_fc1.weight{expert}", EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.linear_fc2.weight{expert}", EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip

# Transformer Engine fuses a norm into the linear layer behind it. MindSpeed-LLM's converter keeps pre_mlp_layernorm in dense models.
TE_INPUT_NORM = row("self_attention.linear_qkv.layer_norm_weight", INPUT_NORM, "hidden")
TE_DENSE_MLP_NORM = row("mlp.linear_fc1.layer_norm_weight", PRE_MLP_NORM, "hidden", also=("pre_mlp_layernorm.weight",))

EMBEDDING_ROW = row("embedding.word_embeddings.weight", EMBEDDING, "vocab hidden", tp="vocab")
FINAL_NORM_ROW = row("decoder.final_layernorm.weight", FINAL_NORM, "hidden")
OUTPUT_ROW = row("output_layer.weight", OUTPUT, "vocab hidden", tp="vocab")
# Megatron's last stage wants its own copy of a tied embedding; with one stage there is none.
TIED_OUTPUT_ROW = row("output_layer.weight", EMBEDDING, "vocab hidden", tp="vocab", optional=True)
