"""Phi-3.5-MoE: experts under Mixtral's names, LayerNorm, and biases wherever the configuration wants them.

MindSpeed-LLM's converter drops every bias but the queries', keys' and values'. A checkpoint that has gone through it is without them,
so those are optional; none is dropped here.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_NORM_BIAS_ROWS, FINAL_NORM_ROWS, OUTPUT_BIAS_ROWS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import BLOCK_SPARSE_MOE, PACKED_EXPERTS, ROUTER, sparse_sizes
from convsvc.blocks.norms import NORM_BIASES, NORMS
from convsvc.families import llama2
from convsvc.tensors.declare import row

OPTIONAL_O_BIAS = tuple(replace(each, optional=True) for each in O_BIAS)

FAMILY = replace(
    llama2.FAMILY,
    name="phi3.5-moe",
    title="Phi-3.5-MoE",
    model_types=("phimoe",),
    architectures=("PhimoeForCausalLM", "PhiMoEForCausalLM"),
    norms=NORMS + NORM_BIASES,
    attention=GQA + OPTIONAL_O_BIAS,
    mlp=(),
    experts=BLOCK_SPARSE_MOE,
    packed=(row("mlp.router.weight", ROUTER, "expert hidden"), *PACKED_EXPERTS),
    flags=((("attention_bias", "add_qkv_bias"), QKV_BIASES),),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
    final_norm=FINAL_NORM_ROWS + FINAL_NORM_BIAS_ROWS,
    output=OUTPUT_ROWS + OUTPUT_BIAS_ROWS,
    tied_output=TIED_OUTPUT_ROWS + OUTPUT_BIAS_ROWS,
    megatron={"normalization": "LayerNorm", "add_qkv_bias": True, "add_dense_bias": True, "add_output_layer_bias": True},
)
