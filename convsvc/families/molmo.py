"""Molmo: a text decoder by OLMo's old names; its vision backbone is carried. Begun as a draft (`inspect --draft-family`).

modeling_molmo.py of the published checkpoints: att_proj is split into queries, keys and values; SwiGLU's input is `x, gate`, up before
gate, and intermediate_size counts both; norm_after and attention_layer_norm are Molmo-7B-O's. transformers has no class.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, OUTPUT
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import K_NORM_WIDE, PACKED_QKV, PACKED_QKV_BIAS, PROJ, Q_NORM_WIDE, gqa_sizes
from convsvc.blocks.norms import INPUT_NORM, ONLY_POST_ATTENTION_NORM, ONLY_POST_MLP_NORM, PRE_MLP_NORM
from convsvc.families import llama2, qwen
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import part, row


def molmo_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """With norms before its blocks, or behind them."""
    first, second = (ONLY_POST_ATTENTION_NORM, ONLY_POST_MLP_NORM) if facts.flag("norm_after") else (INPUT_NORM, PRE_MLP_NORM)
    norms = (row("attn_norm.weight", first, "hidden"), row("ff_norm.weight", second, "hidden"))
    return standard_layer(replace(family, norms=norms), facts, layer)


FAMILY = replace(
    llama2.FAMILY,
    name="molmo",
    title="Molmo (text; its vision backbone is carried)",
    model_types=("molmo",),
    architectures=("MolmoForCausalLM",),
    attention=(
        row("att_proj.weight", PACKED_QKV),
        row("attn_out.weight", PROJ, "hidden (group query head_dim)"),
    ),
    mlp=(
        row("ff_proj.weight", (part(FC1.at(glu="1"), "ffn hidden"), part(FC1.at(glu="0"), "ffn hidden"))),
        row("ff_out.weight", FC2, "hidden ffn"),
    ),
    flags=(
        (("qkv_bias", "add_qkv_bias"), (row("att_proj.bias", PACKED_QKV_BIAS),)),
        (
            ("attention_layer_norm", "qk_layernorm"),
            (row("q_norm.weight", Q_NORM_WIDE, "(group query head_dim)"), row("k_norm.weight", K_NORM_WIDE, "(group head_dim)")),
        ),
    ),
    layer=molmo_layer,
    fields=("norm_after",),
    sizes=(gqa_sizes, qwen.halved_sizes),
    embedding=(row("model.transformer.wte.embedding", EMBEDDING, "vocab hidden"),),
    final_norm=(row("model.transformer.ln_f.weight", FINAL_NORM, "hidden"),),
    output=(row("model.transformer.ff_out.weight", OUTPUT, "vocab hidden"),),
    tied_output=(row("model.transformer.ff_out.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    layer_prefix="model.transformer.blocks.{layer}.",
    carries=(r"^model\.vision_backbone\.", r"^model\.transformer\.wte\.new_embedding$"),
    names={"gate_and_up": "intermediate_size", "epsilon": "layer_norm_eps"},
)
