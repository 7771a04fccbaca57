"""Layers with two attentions and two dense blocks: the same rows, numbered behind the module's name."""

from __future__ import annotations

from convsvc.blocks.sublayers import in_sublayers
from convsvc.blocks.zero_experts import ROUTES, ROUTES_BIAS
from convsvc.dialects.mcore.tables.feed_forward import DENSE
from convsvc.dialects.mcore.tables.local import NORMS
from convsvc.dialects.mindspeed_llm.tables.mla import MLA, MLA_UP
from convsvc.tensors.declare import row

NAMES = {
    "self_attention.": "self_attention_{sublayer}.",
    "mlp.": "mlps_{sublayer}.",
    "input_layernorm.": "input_layernorm_{sublayer}.",
    "pre_mlp_layernorm.": "pre_mlp_layernorm_{sublayer}.",
}

SUBLAYERS = in_sublayers((each for each in NORMS + MLA + MLA_UP + DENSE if each.stored.startswith(tuple(NAMES))), NAMES)
ZERO_EXPERT_ROUTERS = (
    row("mlp.router.weight",      ROUTES,      "route hidden"),
    row("mlp.router.expert_bias", ROUTES_BIAS, "route"),
)  # fmt: skip
