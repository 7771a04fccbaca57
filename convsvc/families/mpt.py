"""MPT: queries, keys and values in one tensor, no positions, no biases."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import (
    EMBEDDING,
    FINAL_NORM,
)
from convsvc.blocks.glu import ungated
from convsvc.blocks.gqa import PACKED_QKV, PROJ, headed_sizes
from convsvc.blocks.norms import (
    INPUT_NORM,
    PRE_MLP_NORM,
)
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def mpt_sizes(facts: Facts) -> dict[str, int]:
    """Groups of one query; ffn is expansion_ratio times the hidden size."""
    ffn = facts.number("expansion_ratio", default=4) * facts.number("hidden")
    return {**headed_sizes(facts), "glu": 1, "ffn": facts.number("ffn_hidden_size", default=ffn)}


FAMILY = replace(
    llama2.FAMILY,
    name="mpt",
    title="MPT",
    model_types=("mpt",),
    architectures=("MPTForCausalLM", "MptForCausalLM"),
    norms=(row("norm_1.weight", INPUT_NORM, "hidden"), row("norm_2.weight", PRE_MLP_NORM, "hidden")),
    attention=(row("attn.Wqkv.weight", PACKED_QKV), row("attn.out_proj.weight", PROJ, "hidden (group query head_dim)")),
    mlp=ungated("ffn.up_proj", "ffn.down_proj", biased=False),
    flags=(),
    sizes=(mpt_sizes,),
    embedding=(row("transformer.wte.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.norm_f.weight", FINAL_NORM, "hidden"),),
    tied_by_default=True,
    layer_prefix="transformer.blocks.{layer}.",
    names={"layers": "n_layers", "heads": "n_heads", "epsilon": "layer_norm_epsilon"},
    megatron={**PLAIN, "position_embedding_type": "none", "use_rotary_position_embeddings": False},
)
