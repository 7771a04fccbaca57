"""Dense feed-forward blocks, routers and experts."""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.moe import (
    EXPERT_FC1,
    EXPERT_FC2,
    ROUTER,
    ROUTER_BIAS,
    SHARED_FC1,
    SHARED_FC2,
    SHARED_GATE,
    TOKEN_EXPERTS,
)
from convsvc.tensors.declare import row

DENSE = (
    row("mlp.linear_fc1.weight", FC1,      "(glu ffn) hidden", tp="ffn"),
    row("mlp.linear_fc1.bias",   FC1_BIAS, "(glu ffn)",        tp="ffn"),
    row("mlp.linear_fc2.weight", FC2,      "hidden ffn",       tp="ffn"),
    row("mlp.linear_fc2.bias",   FC2_BIAS, "hidden"),
)  # fmt: skip
ROUTERS = (
    row("mlp.router.weight",      ROUTER,        "expert hidden"),
    row("mlp.router.expert_bias", ROUTER_BIAS,   "expert"),
    row("mlp.router.tid2eid",     TOKEN_EXPERTS, "vocab chosen"),
)  # fmt: skip
SHARED_EXPERTS = (
    row("mlp.shared_experts.gate_weight",       SHARED_GATE, "shared_gate hidden"),
    row("mlp.shared_experts.linear_fc1.weight", SHARED_FC1,  "(glu shared_ffn) hidden", tp="shared_ffn"),
    row("mlp.shared_experts.linear_fc2.weight", SHARED_FC2,  "hidden shared_ffn",       tp="shared_ffn"),
)  # fmt: skip

# One expert after the other; grouped GEMM's weight1 is called [hidden, experts * 2 * ffn] all the same.
SEQUENTIAL_EXPERTS = (
    row("mlp.experts.local_experts.{expert}.linear_fc1.weight", EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.local_experts.{expert}.linear_fc2.weight", EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
GROUPED_EXPERTS = (
    row("mlp.experts.weight1", EXPERT_FC1, "expert hidden (glu expert_ffn)", ep="expert", etp="expert_ffn",
        shape="hidden (expert glu expert_ffn)"),
    row("mlp.experts.weight2", EXPERT_FC2, "(expert expert_ffn) hidden",     ep="expert", etp="expert_ffn"),
)  # fmt: skip
TE_GROUPED_EXPERTS = (
    row("mlp.experts.linear_fc1.weight{expert}",                EXPERT_FC1, "(glu expert_ffn) hidden", ep="expert", etp="expert_ffn"),
    row("mlp.experts.linear_fc2.weight{expert}",                EXPERT_FC2, "hidden expert_ffn",       ep="expert", etp="expert_ffn"),
)  # fmt: skip
