"""Dense feed-forward blocks, routers and shared experts."""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.moe import ROUTER, ROUTER_BIAS, SHARED_FC1, SHARED_FC2, SHARED_GATE
from convsvc.tensors.declare import row

DENSE = (
    row("mlp.linear_fc1.weight", FC1,      "(glu ffn) hidden", tp="ffn"),
    row("mlp.linear_fc1.bias",   FC1_BIAS, "(glu ffn)",        tp="ffn"),
    row("mlp.linear_fc2.weight", FC2,      "hidden ffn",       tp="ffn"),
    row("mlp.linear_fc2.bias",   FC2_BIAS, "hidden"),
)  # fmt: skip
ROUTERS = (
    row("mlp.router.weight",      ROUTER,      "expert hidden"),
    row("mlp.router.expert_bias", ROUTER_BIAS, "expert"),
)  # fmt: skip
SHARED_EXPERTS = (
    row("mlp.shared_experts.gate_weight",       SHARED_GATE, "shared_gate hidden"),
    row("mlp.shared_experts.linear_fc1.weight", SHARED_FC1,  "(glu shared_ffn) hidden", tp="shared_ffn"),
    row("mlp.shared_experts.linear_fc2.weight", SHARED_FC2,  "hidden shared_ffn",       tp="shared_ffn"),
)  # fmt: skip
