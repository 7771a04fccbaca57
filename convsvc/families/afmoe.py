"""AFMoE (Trinity): four norms a layer, norms on heads, a gate on what attention gives, a shared expert beside the routed ones."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import EXPERTS, ROUTER, ROUTER_BIAS, SHARED_EXPERTS, moe_sizes, shared_sizes
from convsvc.blocks.norms import INPUT_NORM, POST_ATTENTION_NORM, POST_MLP_NORM, PRE_MLP_NORM
from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row


def afmoe_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Dense ones come first (num_dense_layers)."""
    first = facts.number("num_dense_layers", default=facts.number("first_k_dense_replace", default=0))
    return standard_layer(family, Facts({**facts.values, "first_k_dense_replace": first, "mlp_layer_types": None}, facts.origin), layer)


def width_sizes(facts: Facts) -> dict[str, int]:
    """attention: how wide all heads are together."""
    return {"attention": facts.number("heads") * gqa_sizes(facts)["head_dim"]}


FAMILY = replace(
    llama2.FAMILY,
    name="afmoe",
    title="AFMoE (Trinity)",
    model_types=("afmoe",),
    architectures=("AfmoeForCausalLM",),
    norms=(
        row("input_layernorm.weight", INPUT_NORM, "hidden"),
        row("post_attention_layernorm.weight", POST_ATTENTION_NORM, "hidden"),
        row("pre_mlp_layernorm.weight", PRE_MLP_NORM, "hidden"),
        row("post_mlp_layernorm.weight", POST_MLP_NORM, "hidden"),
    ),
    attention=(*GQA, *QK_NORM, own("self_attn.gate_proj.weight", "attention hidden")),
    experts=(
        row("mlp.router.gate.weight", ROUTER, "expert hidden"),
        row("mlp.expert_bias", ROUTER_BIAS, "expert", keep="F32"),
        *EXPERTS,
        *SHARED_EXPERTS,
    ),
    flags=(("attention_bias", QKV_BIASES + O_BIAS),),
    sizes=(
        gqa_sizes,
        glu_sizes,
        moe_sizes,
        shared_sizes,
        lambda facts: {"attention": facts.number("heads") * gqa_sizes(facts)["head_dim"]},
    ),
    layer=afmoe_layer,
    fields=("num_dense_layers",),
    names={"experts": "num_experts", "shared": "num_shared_experts"},
    advice=(windows,),
)
