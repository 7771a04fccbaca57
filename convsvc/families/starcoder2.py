"""StarCoder 2: Llama with LayerNorms and no gate."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import FINAL_LAYER_NORM
from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import O_BIAS, QKV_BIASES, gqa_sizes
from convsvc.blocks.norms import LAYER_NORMS
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN

FAMILY = replace(
    llama2.FAMILY,
    name="starcoder2",
    title="StarCoder 2",
    model_types=("starcoder2",),
    architectures=("Starcoder2ForCausalLM",),
    norms=LAYER_NORMS,
    mlp=ungated("mlp.c_fc", "mlp.c_proj", biased=False),
    flags=(("use_bias", QKV_BIASES + O_BIAS + ungated("mlp.c_fc", "mlp.c_proj", biased=True)[2:]),),
    sizes=(gqa_sizes, ungated_sizes),
    final_norm=FINAL_LAYER_NORM,
    tied_by_default=True,
    names={"epsilon": "norm_epsilon"},
    megatron=PLAIN,
)
