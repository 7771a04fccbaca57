"""InternLM 1, 2 and 3: Llama with switches of their own for biases; InternLM2 stores a group's queries, its key and its value together.

Names and order: modeling_internlm.py and modeling_internlm2.py of the published checkpoints ("b q (h gs d) -> b q h gs d", the last two of
gs are key and value), transformers InternLM3Config.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT
from convsvc.blocks.glu import FC1, FC2, GLU_BIASES
from convsvc.blocks.gqa import O_BIAS, PROJ, PROJ_BIAS, QKV, QKV_BIAS, QKV_BIASES
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.families import llama2
from convsvc.tensors.declare import row

INTERNLM = replace(
    llama2.FAMILY,
    name="internlm",
    title="InternLM",
    model_types=("internlm",),
    architectures=("InternLMForCausalLM",),
    flags=(("bias", QKV_BIASES + O_BIAS),),
)
INTERNLM2 = replace(
    llama2.FAMILY,
    name="internlm2",
    title="InternLM2, InternLM2.5",
    model_types=("internlm2",),
    architectures=("InternLM2ForCausalLM",),
    norms=(
        row("attention_norm.weight", INPUT_NORM, "hidden"),
        row("ffn_norm.weight", PRE_MLP_NORM, "hidden"),
    ),
    attention=(
        row("attention.wqkv.weight", QKV, "(group slot head_dim) hidden", linear="layer"),
        row("attention.wo.weight", PROJ, "hidden (group query head_dim)", linear="layer"),
    ),
    mlp=(
        row("feed_forward.w1.weight", FC1.at(glu="0"), "ffn hidden", linear="layer"),
        row("feed_forward.w3.weight", FC1.at(glu="1"), "ffn hidden", linear="layer"),
        row("feed_forward.w2.weight", FC2, "hidden ffn", linear="layer"),
    ),
    flags=(
        (
            "bias",
            (
                row("attention.wqkv.bias", QKV_BIAS, "(group slot head_dim)"),
                row("attention.wo.bias", PROJ_BIAS, "hidden"),
            ),
        ),
    ),
    embedding=(row("model.tok_embeddings.weight", EMBEDDING, "vocab hidden"),),
    output=(row("output.weight", OUTPUT, "vocab hidden"),),
    tied_output=(row("output.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
)
INTERNLM3 = replace(
    llama2.FAMILY,
    name="internlm3",
    title="InternLM3",
    model_types=("internlm3",),
    # transformers saves it under the class that it runs it with.
    architectures=("InternLM3ForCausalLM", "LlamaForCausalLM"),
    flags=((("qkv_bias", "attention_bias"), QKV_BIASES), (("bias", "mlp_bias"), O_BIAS + GLU_BIASES)),
)
FAMILIES = (INTERNLM, INTERNLM2, INTERNLM3)
