"""What only Megatron's own modules, or MindSpeed's in their place, name as here: norms apart, experts one by one or in two matrices."""

from __future__ import annotations

from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.tensors.declare import row

NORMS = (
    row("input_layernorm.weight",             INPUT_NORM,          "hidden"),
    row("input_layernorm.bias",               INPUT_NORM_BIAS,     "hidden"),
    row("pre_mlp_layernorm.weight",           PRE_MLP_NORM,        "hidden"),
    row("pre_mlp_layernorm.bias",             PRE_MLP_NORM_BIAS,   "hidden"),
)  # fmt: skip
EXPERTS = (
    row("mlp.experts.local_experts.{expert}.linear_fc1.weight", EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.local_experts.{expert}.linear_fc2.weight", EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
# One expert after the other; weight1 is called [hidden, experts * 2 * ffn] all the same.
GROUPED_EXPERTS = (
    row("mlp.experts.weight1", EXPERT_FC1, "expert hidden (glu expert_ffn)", ep="expert", etp="expert_ffn",
        shape="hidden (expert glu expert_ffn)"),
    row("mlp.experts.weight2", EXPERT_FC2, "(expert expert_ffn) hidden",     ep="expert", etp="expert_ffn"),
)  # fmt: skip
