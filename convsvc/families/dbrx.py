"""DBRX: layers of LayerNorms without biases and experts, all of a layer's in three tensors, one expert's rows after another's."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM
from convsvc.blocks.gqa import PACKED_QKV, PROJ, gqa_sizes
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER, sparse_sizes
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def dbrx_sizes(facts: Facts) -> dict[str, int]:
    """Of attn_config and ffn_config, in which DBRX's configuration nests the groups and what experts are (DbrxConfig)."""
    nested = {**facts.values, **(facts.get("attn_config") or {}), **(facts.get("ffn_config") or {})}
    flat = Facts({"num_key_value_heads": nested.get("kv_n_heads", facts.get("num_key_value_heads")), **nested}, facts.origin)
    return {**gqa_sizes(flat), **sparse_sizes(flat)}


FAMILY = replace(
    llama2.FAMILY,
    name="dbrx",
    title="DBRX",
    model_types=("dbrx",),
    architectures=("DbrxForCausalLM",),
    norms=(row("norm_attn_norm.norm_1.weight", INPUT_NORM, "hidden"), row("norm_attn_norm.norm_2.weight", PRE_MLP_NORM, "hidden")),
    attention=(
        row("norm_attn_norm.attn.Wqkv.weight", PACKED_QKV),
        row("norm_attn_norm.attn.out_proj.weight", PROJ, "hidden (group query head_dim)"),
    ),
    mlp=(),
    experts=(
        row("ffn.router.layer.weight", ROUTER, "expert hidden"),
        row("ffn.experts.mlp.w1", EXPERT_FC1.at(glu="0"), "(expert expert_ffn) hidden"),
        row("ffn.experts.mlp.v1", EXPERT_FC1.at(glu="1"), "(expert expert_ffn) hidden"),
        row("ffn.experts.mlp.w2", EXPERT_FC2, "(expert expert_ffn) hidden"),
    ),
    packed=(),
    flags=(),
    sizes=(dbrx_sizes,),
    embedding=(row("transformer.wte.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.norm_f.weight", FINAL_NORM, "hidden"),),
    layer_prefix="transformer.blocks.{layer}.",
    fields=("attn_config", "ffn_config"),
    names={"layers": "n_layers", "heads": "n_heads", "hidden": "d_model"},
    megatron={"normalization": "LayerNorm"},
)
