"""Llama 3.2 Vision (text): Llama with layers that attend to the picture, gated, and an embedding of eight more tokens than the output has.

transformers 5.23, MllamaForCausalLM. Megatron's decoder has no layer of this kind.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.own import own
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows

CROSS = (
    own("cross_attn.q_proj.weight", "query_inner hidden"),
    own("cross_attn.k_proj.weight", "key_inner hidden"),
    own("cross_attn.v_proj.weight", "key_inner hidden"),
    own("cross_attn.o_proj.weight", "hidden query_inner"),
    own("cross_attn.q_norm.weight", "head_dim"),
    own("cross_attn.k_norm.weight", "head_dim"),
    own("cross_attn_attn_gate", "single"),
    own("cross_attn_mlp_gate", "single"),
)
# What transformers' class takes where nothing is said.
USUAL = (3, 8, 13, 18, 23, 28, 33, 38)


def mllama_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A layer of Llama's, or one that attends to the picture."""
    crossing = facts.items("cross_attention_layers", int)
    is_crossing = layer in (USUAL if crossing is None else crossing)
    return LayerRows(family.norms + (CROSS if is_crossing else family.attention) + family.mlp)


def mllama_sizes(facts: Facts) -> dict[str, int]:
    """embedded: the tokens that are read, eight more than are written; all heads together."""
    width = facts.number("head_dim", default=facts.number("hidden") // max(facts.number("heads"), 1))
    inner = {"query_inner": facts.number("heads") * width, "key_inner": facts.num_groups * width}
    return {"embedded": facts.number("vocab") + 8, "single": 1, **inner}


FAMILY = replace(
    llama2.FAMILY,
    name="mllama",
    title="Llama 3.2 Vision (text)",
    model_types=("mllama_text_model",),
    architectures=("MllamaForCausalLM",),
    flags=(),
    sizes=(*llama2.FAMILY.sizes, mllama_sizes),
    layer=mllama_layer,
    embedding=(own("model.embed_tokens.weight", "embedded hidden"),),
    fields=("cross_attention_layers",),
)
