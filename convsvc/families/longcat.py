"""LongCat-Flash: every layer has two attentions, two dense blocks with their norms, and experts beside them.

`num_layers` counts these double layers (transformers' num_hidden_layers is twice as much).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import GLU, glu_sizes
from convsvc.blocks.mla import MLA, mla_sizes
from convsvc.blocks.moe import MOE, ROUTER, moe_sizes
from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_EMBEDDING, MTP_NORM
from convsvc.blocks.norms import NORMS
from convsvc.blocks.sublayers import in_sublayers
from convsvc.blocks.zero_experts import ROUTER_WITH_ZERO_EXPERTS, route_sizes
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

NAMES = {
    "self_attn.": "self_attn.{sublayer}.",
    "mlp.": "mlps.{sublayer}.",
    "input_layernorm.": "input_layernorm.{sublayer}.",
    "post_attention_layernorm.": "post_attention_layernorm.{sublayer}.",
}
# One attention and one dense block (vllm, model_executor/models/longcat_flash_mtp.py: the names that it maps).
_MTP_BLOCK = "model.mtp.layers.0."
MTP_LAYER = tuple(
    replace(each, optional=True)
    for each in (
        row("model.mtp.embed_tokens.weight", MTP_EMBEDDING, "vocab hidden"),
        row("model.mtp.norm.weight", MTP_NORM, "hidden"),
        row(_MTP_BLOCK + "enorm.m.weight", E_NORM, "hidden"),
        row(_MTP_BLOCK + "hnorm.m.weight", H_NORM, "hidden"),
        row(_MTP_BLOCK + "eh_proj.weight", EH_PROJ, "hidden (part input)"),
        *(replace(each, stored=_MTP_BLOCK + each.stored) for each in NORMS + MLA),
        *(replace(each, stored=_MTP_BLOCK + "transformer_layer." + each.stored) for each in GLU),
    )
)


def double_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """All of it in every layer; with experts, so none is dense."""
    return LayerRows(family.norms + family.attention + family.mlp + family.experts, dense=False)


def sublayer_sizes(facts: Facts) -> dict[str, int]:
    """sublayer: 2."""
    return {"sublayer": 2}


FAMILY = Family(
    name="longcat",
    title="LongCat-Flash",
    model_types=("longcat_flash",),
    architectures=("LongcatFlashForCausalLM",),
    norms=in_sublayers(NORMS, NAMES),
    attention=in_sublayers(MLA, NAMES),
    mlp=in_sublayers(GLU, NAMES),
    experts=ROUTER_WITH_ZERO_EXPERTS + tuple(row for row in MOE if ROUTER not in row.logicals),
    sizes=(mla_sizes, glu_sizes, moe_sizes, route_sizes, sublayer_sizes),
    layer=double_layer,
    names={
        "layers": "num_layers",
        "ffn": "ffn_hidden_size",
        "experts": "n_routed_experts",
        "expert_ffn": "expert_ffn_hidden_size",
        "chosen": "moe_topk",
    },
    # Its MTP layer, which MindSpeed-LLM's model does not have.
    carried=MTP_LAYER,
    megatron={"multi_latent_attention": True, "qk_layernorm": True, "transformerlayer_type": "longcat"},
)
