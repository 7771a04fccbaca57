"""DeepSeek-V3, R1, Kimi-K2, Moonlight: DeepSeek-V2 with a bias on the router and MTP layers."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.moe import ROUTER_BIASES
from convsvc.blocks.mtp import MTP, MTP_COPIES, MTP_SHARED_HEAD_NORM
from convsvc.families import deepseek2
from convsvc.models.family import Family
from convsvc.models.mtp_layers import Mtp

FAMILY: Family = replace(
    deepseek2.FAMILY,
    name="deepseek3",
    title="DeepSeek-V3, DeepSeek-R1, Kimi-K2",
    model_types=("deepseek_v3", "kimi_k2"),
    architectures=("DeepseekV3ForCausalLM",),
    experts=deepseek2.FAMILY.experts + ROUTER_BIASES,
    # From a checkpoint that does not tell, MindSpeed-LLM writes the MTP layer's embedding and not its head.
    mtp=Mtp(MTP + MTP_SHARED_HEAD_NORM + (MTP_COPIES[0], replace(MTP_COPIES[1], written=False))),
    distinguish=None,
    silent="deepseek_v3",
)
