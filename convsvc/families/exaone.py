"""EXAONE 3 and 3.5: Llama under names of its own (their repositories' modeling_exaone.py: ExaoneGatedMLP, ExaoneAttention)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM
from convsvc.blocks.glu import GLU
from convsvc.blocks.gqa import GQA
from convsvc.blocks.norms import NORMS
from convsvc.blocks.own import called
from convsvc.families import llama2
from convsvc.tensors.declare import row

FAMILY = replace(
    llama2.FAMILY,
    name="exaone",
    title="EXAONE 3, EXAONE 3.5",
    model_types=("exaone",),
    architectures=("ExaoneForCausalLM",),
    norms=called(NORMS, input_layernorm="ln_1", post_attention_layernorm="ln_2"),
    attention=called(GQA, self_attn="attn.attention", o_proj="out_proj"),
    mlp=called(GLU, gate_proj="c_fc_0", up_proj="c_fc_1", down_proj="c_proj"),
    flags=(),
    embedding=(row("transformer.wte.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.ln_f.weight", FINAL_NORM, "hidden"),),
    layer_prefix="transformer.h.{layer}.",
    ignored=(r"\.rotary\.inv_freq$",),
    names={"layers": "num_layers", "epsilon": "layer_norm_epsilon"},
)
