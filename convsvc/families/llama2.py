"""Llama 2 and 3, and what copies them: GQA, gated feed-forward, two norms a layer."""

from __future__ import annotations

from convsvc.blocks.glu import GLU, GLU_BIASES, glu_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import NORMS
from convsvc.models.family import Family

FAMILY = Family(
    name="llama2",
    title="Llama 2, Llama 3",
    # Aquila, Skywork and XVERSE have classes of their own that compute the same under the same names.
    model_types=("llama", "code_llama", "iquestcoder", "aquila", "skywork", "xverse"),
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "AquilaForCausalLM", "SkyworkForCausalLM", "XverseForCausalLM"),
    norms=NORMS,
    attention=GQA,
    mlp=GLU,
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", GLU_BIASES)),
    sizes=(gqa_sizes, glu_sizes),
)
