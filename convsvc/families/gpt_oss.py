"""gpt-oss in plain weights: attention with biases and sinks, experts stored together, input before output, gate and up interleaved.

transformers 5.23, GptOssExperts: gate_up_proj [expert, hidden, 2 * ffn], gate = [..., ::2], up = [..., 1::2]. As published the experts are
MXFP4, output before input, under names of their own (`_blocks`, `_scales`).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, sparse_sizes
from convsvc.families import llama2
from convsvc.models.beyond import windows
from convsvc.tensors.declare import logical, row

SINKS = logical("self_attention.core_attention.softmax_offset", "group query")
ROUTER_LINEAR_BIAS = logical("mlp.router.bias", "expert")
EXPERT_FC1_BIAS = logical("mlp.experts.linear_fc1.bias", "expert glu expert_ffn")
EXPERT_FC2_BIAS = logical("mlp.experts.linear_fc2.bias", "expert hidden")

EXPERTS = (
    row("mlp.router.weight", ROUTER, "expert hidden"),
    row("mlp.router.bias", ROUTER_LINEAR_BIAS, "expert"),
    row("mlp.experts.gate_up_proj", EXPERT_FC1, "expert hidden (expert_ffn glu)"),
    row("mlp.experts.gate_up_proj_bias", EXPERT_FC1_BIAS, "expert (expert_ffn glu)"),
    row("mlp.experts.down_proj", EXPERT_FC2, "expert expert_ffn hidden"),
    row("mlp.experts.down_proj_bias", EXPERT_FC2_BIAS, "expert hidden"),
)

FAMILY = replace(
    llama2.FAMILY,
    name="gpt-oss",
    title="gpt-oss",
    model_types=("gpt_oss",),
    architectures=("GptOssForCausalLM",),
    attention=(*GQA, *QKV_BIASES, *O_BIAS, row("self_attn.sinks", SINKS, "(group query)")),
    mlp=(),
    experts=EXPERTS,
    packed=(),
    flags=(),
    sizes=(gqa_sizes, sparse_sizes),
    names={"experts": "num_local_experts", "expert_ffn": "intermediate_size"},
    advice=(windows,),
)
