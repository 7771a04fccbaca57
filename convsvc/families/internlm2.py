"""InternLM 2 and 2.5: Llama by other names, whose groups' queries, key and value lie together in one tensor.

Names and order: modeling_internlm2.py of the published checkpoints ("b q (h gs d) -> b q h gs d", the last two of gs are key and value).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.families import llama2
from convsvc.tensors.declare import row

FAMILY = replace(
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
        row("attention.wqkv.weight", QKV, "(group slot head_dim) hidden"),
        row("attention.wo.weight", PROJ, "hidden (group query head_dim)"),
    ),
    mlp=(
        row("feed_forward.w1.weight", FC1.at(glu="0"), "ffn hidden"),
        row("feed_forward.w3.weight", FC1.at(glu="1"), "ffn hidden"),
        row("feed_forward.w2.weight", FC2, "hidden ffn"),
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
