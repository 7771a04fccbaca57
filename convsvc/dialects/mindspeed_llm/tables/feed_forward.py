"""A router that looks experts up by the token (deepseek4)."""

from __future__ import annotations

from convsvc.blocks.moe import TOKEN_EXPERTS
from convsvc.tensors.declare import row

TOKEN_ROUTERS = (row("mlp.router.tid2eid", TOKEN_EXPERTS, "vocab chosen"),)
