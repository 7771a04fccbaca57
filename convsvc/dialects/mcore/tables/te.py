"""What Transformer Engine's modules name in their own way: a norm is fused into the linear layer behind it, grouped experts are numbered.

The norm before a dense block is linear_fc1's; before a router there is no linear layer, and it stays apart (core/models/gpt/
gpt_layer_specs.py, get_gpt_layer_with_transformer_engine_spec). MindSpeed-LLM's converter keeps it apart in models without experts, too,
where training's spec (TELayerNormColumnParallelLinear) does not know that name: it is read.
"""

from __future__ import annotations

from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.dialects.mcore.tables import local
from convsvc.tensors.declare import row

DENSE_NORMS = (
    row("self_attention.linear_qkv.layer_norm_weight", INPUT_NORM,        "hidden"),
    row("self_attention.linear_qkv.layer_norm_bias",   INPUT_NORM_BIAS,   "hidden"),
    row("mlp.linear_fc1.layer_norm_weight",            PRE_MLP_NORM,      "hidden", also=("pre_mlp_layernorm.weight",)),
    row("mlp.linear_fc1.layer_norm_bias",              PRE_MLP_NORM_BIAS, "hidden", also=("pre_mlp_layernorm.bias",)),
)  # fmt: skip
SPARSE_NORMS = (
    row("self_attention.linear_qkv.layer_norm_weight", INPUT_NORM,        "hidden"),
    row("self_attention.linear_qkv.layer_norm_bias",   INPUT_NORM_BIAS,   "hidden"),
    row("pre_mlp_layernorm.weight",                    PRE_MLP_NORM,      "hidden"),
    row("pre_mlp_layernorm.bias",                      PRE_MLP_NORM_BIAS, "hidden"),
)  # fmt: skip
EXPERTS = local.EXPERTS
GROUPED_EXPERTS = (
    row("mlp.experts.linear_fc1.weight{expert}",                EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.linear_fc2.weight{expert}",                EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
