"""HunYuan V1 MoE (Hunyuan-A13B): HunYuan with experts and a shared block, its router's matrix in `wg`."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import gqa_sizes
from convsvc.blocks.moe import EXPERTS, PACKED_EXPERTS, ROUTER, SHARED_FC1, SHARED_FC2
from convsvc.families import hunyuan
from convsvc.families.hunyuan import has_experts
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row

SHARED = (
    row("mlp.shared_mlp.gate_proj.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("mlp.shared_mlp.up_proj.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
    row("mlp.shared_mlp.down_proj.weight", SHARED_FC2, "hidden shared_ffn"),
)


def hunyuan_moe_sizes(facts: Facts) -> dict[str, int]:
    """The experts' and the shared block's widths: numbers, or lists with one a layer, which are all alike."""
    width, shared = _alike(facts, "moe_intermediate_size"), _alike(facts, "num_shared_expert")
    expert_ffn = width or facts.number("expert_ffn", default=0) or facts.number("ffn")
    stated = facts.number("moe_shared_expert_intermediate_size", default=0)
    return {
        "glu": 2,
        "expert": facts.number("experts"),
        "expert_ffn": expert_ffn,
        "shared_ffn": stated or (shared or 1) * facts.number("ffn"),
    }


def _alike(facts: Facts, name: str) -> int | None:
    listed = facts.items(name, int) if isinstance(facts.get(name), list | tuple) else None
    if listed is None:
        return None if facts.get(name) is None else facts.number(name)
    return listed[0] if len(set(listed)) == 1 else None


FAMILY = replace(
    hunyuan.FAMILY,
    name="hunyuan-moe",
    title="HunYuan V1 MoE (A13B)",
    model_types=("hunyuan_v1_moe", "hunyuan"),
    architectures=("HunYuanMoEV1ForCausalLM",),
    mlp=(),
    experts=(row("mlp.gate.wg.weight", ROUTER, "expert hidden"), *EXPERTS, *SHARED),
    packed=PACKED_EXPERTS,
    sizes=(gqa_sizes, hunyuan_moe_sizes),
    distinguish=has_experts,
    names={"experts": "num_experts", "expert_ffn": "intermediate_size", "chosen": "moe_topk"},
)
