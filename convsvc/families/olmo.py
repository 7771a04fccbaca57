"""OLMo 1, 2 and 3, OLMoE, and EXAONE 4: Llama with other norms: none that has weights, after the blocks, or over all heads."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import glu_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QK_NORM, QK_NORM_WIDE, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import MOE, ROUTER_BIAS, SHARED_EXPERTS, moe_sizes, shared_sizes, sparse_sizes
from convsvc.blocks.norms import NORMS_ONLY_AFTER
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.tensors.declare import Part, Row, row

# As transformers 5 has it in memory.
ALSO = ("mlp.gate.e_score_correction_bias",)
BIASES = (("attention_bias", QKV_BIASES + O_BIAS),)


def _unnormed(each: Row) -> Part:
    """The row's part of a tensor that is called apart from those which a norm comes before."""
    selection = each.parts[0].selection
    return replace(each.parts[0], selection=replace(selection, logical=selection.logical.renamed("unnormed.")))


# Its norms have no weights, and Megatron's layers have one before each block: what attention has lies in Hugging Face's formats alone.
OLMO = replace(
    llama2.FAMILY,
    name="olmo",
    title="OLMo",
    model_types=("olmo",),
    architectures=("OlmoForCausalLM",),
    norms=(),
    attention=tuple(replace(each, parts=(_unnormed(each),)) for each in GQA),
    flags=(),
    final_norm=(),
)
OLMO2 = replace(
    llama2.FAMILY,
    name="olmo2",
    title="OLMo 2, OLMo 3",
    model_types=("olmo2", "olmo3"),
    architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    norms=NORMS_ONLY_AFTER,
    attention=GQA + QK_NORM_WIDE,
    flags=BIASES,
    advice=(windows,),
)
OLMOE = replace(
    llama2.FAMILY,
    name="olmoe",
    title="OLMoE",
    model_types=("olmoe",),
    architectures=("OlmoeForCausalLM",),
    attention=GQA + QK_NORM_WIDE,
    mlp=(),
    experts=MOE,
    flags=BIASES,
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_experts", "expert_ffn": "intermediate_size"},
    megatron={"qk_layernorm": True},
)
EXAONE4 = replace(
    OLMO2,
    name="exaone4",
    title="EXAONE 4",
    model_types=("exaone4",),
    architectures=("Exaone4ForCausalLM",),
    attention=GQA + QK_NORM,
    flags=(),
)
EXAONE_MOE = replace(
    llama2.FAMILY,
    name="exaone-moe",
    title="EXAONE MoE (K-EXAONE)",
    model_types=("exaone_moe",),
    architectures=("ExaoneMoeForCausalLM",),
    attention=GQA + QK_NORM,
    experts=(*MOE, row("mlp.e_score_correction_bias", ROUTER_BIAS, "expert", keep="F32", also=ALSO), *SHARED_EXPERTS),
    flags=(),
    sizes=(gqa_sizes, glu_sizes, moe_sizes, shared_sizes),
    names={"experts": "num_experts", "shared": "num_shared_experts", "dense": "first_k_dense_replace"},
    megatron={"qk_layernorm": True, "moe_router_enable_expert_bias": True},
    advice=(windows,),
)
FAMILIES = (OLMO, OLMO2, OLMOE, EXAONE4, EXAONE_MOE)
