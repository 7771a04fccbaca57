"""Qwen, the first one: Qwen2 without groups, under names of its own (modeling_qwen.py of the published checkpoints).

intermediate_size is gate and up together there; w2 is the gate (QWenMLP: w1(x) * silu(w2(x))).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ, gqa_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.families import qwen25
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def halved_sizes(facts: Facts) -> dict[str, int]:
    """glu (2) and ffn: half of what the configuration says, or Megatron's number."""
    both = facts.first_number(("intermediate_size",))
    return {"glu": 2, "ffn": both // 2 if both else facts.number("ffn_hidden_size")}


FAMILY = replace(
    qwen25.FAMILY,
    name="qwen",
    title="Qwen (1)",
    model_types=("qwen",),
    architectures=("QWenLMHeadModel",),
    norms=(
        row("ln_1.weight", INPUT_NORM, "hidden"),
        row("ln_2.weight", PRE_MLP_NORM, "hidden"),
    ),
    attention=(
        row("attn.c_attn.weight", PACKED_QKV),
        row("attn.c_attn.bias", PACKED_QKV_BIAS),
        row("attn.c_proj.weight", PROJ, "hidden (group query head_dim)"),
    ),
    mlp=(
        row("mlp.w2.weight", FC1.at(glu="0"), "ffn hidden"),
        row("mlp.w1.weight", FC1.at(glu="1"), "ffn hidden"),
        row("mlp.c_proj.weight", FC2, "hidden ffn"),
    ),
    sizes=(gqa_sizes, halved_sizes),
    embedding=(row("transformer.wte.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.ln_f.weight", FINAL_NORM, "hidden"),),
    layer_prefix="transformer.h.{layer}.",
    # What AutoGPTQ adds to linear layers that have no bias: zeros.
    carries=(r"^transformer\.h\.\d+\.(attn\.c_proj|mlp\.(w1|w2|c_proj))\.bias$",),
    names={"gate_and_up": "intermediate_size", "head_dim": "kv_channels", "epsilon": "layer_norm_epsilon"},
)
