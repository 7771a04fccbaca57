"""DeepSeek-V4: compressed sparse attention, residual streams, experts in every layer, the first layers' chosen by the token itself.

Published under DeepSeek's own names. The base models' MTP layers repeat the embedding and the head (`deepseek4_base`).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.compressed_attention import ATTENTION, compressed_attention_sizes, compressor_of
from convsvc.blocks.embeddings import EMBEDDING, OUTPUT
from convsvc.blocks.hyper_connections import HYPER_CONNECTIONS, JOINED_NORM, JOINED_STREAMS, stream_sizes
from convsvc.blocks.moe import (
    EXPERT_FC1,
    EXPERT_FC2,
    ROUTER,
    ROUTER_BIAS,
    SHARED_FC1,
    SHARED_FC2,
    TOKEN_EXPERTS,
    moe_sizes,
    shared_sizes,
)
from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_EMBEDDING, MTP_NORM, MTP_OUTPUT
from convsvc.blocks.norms import INPUT_NORM, PRE_MLP_NORM
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.mtp_layers import Mtp
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

NORMS = (
    row("attn_norm.weight", INPUT_NORM, "hidden"),
    row("ffn_norm.weight", PRE_MLP_NORM, "hidden"),
)
EXPERTS = (
    row("ffn.gate.weight", ROUTER, "expert hidden"),
    row("ffn.experts.{expert}.w1.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"),
    row("ffn.experts.{expert}.w2.weight", EXPERT_FC2, "hidden expert_ffn"),
    row("ffn.experts.{expert}.w3.weight", EXPERT_FC1.at(glu="1"), "expert_ffn hidden"),
    row("ffn.shared_experts.w1.weight", SHARED_FC1.at(glu="0"), "shared_ffn hidden"),
    row("ffn.shared_experts.w2.weight", SHARED_FC2, "hidden shared_ffn"),
    row("ffn.shared_experts.w3.weight", SHARED_FC1.at(glu="1"), "shared_ffn hidden"),
)
BY_SCORE = (row("ffn.gate.bias", ROUTER_BIAS, "expert", keep="F32"),)
BY_TOKEN = (row("ffn.gate.tid2eid", TOKEN_EXPERTS, "vocab chosen"),)
MTP_ROWS = (
    row("enorm.weight", E_NORM, "hidden"),
    row("hnorm.weight", H_NORM, "hidden"),
    row("norm.weight", MTP_NORM, "hidden"),
    row("e_proj.weight", EH_PROJ.at(part="0"), "hidden input"),
    row("h_proj.weight", EH_PROJ.at(part="1"), "hidden input"),
    *JOINED_STREAMS,
)
MTP_COPIES = (
    row("emb.tok_emb.weight", MTP_EMBEDDING, "vocab hidden", optional=True),
    row("head.weight", MTP_OUTPUT, "vocab hidden", optional=True),
)


def streamed_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """All of it in every layer; a compressor where the layer's ratio says so, a table of experts in the first num_hash_layers."""
    compressor, sizes = compressor_of(facts, layer)
    router = BY_TOKEN if layer < facts.first_number(("num_hash_layers", "n_hash_layers")) else BY_SCORE
    return LayerRows(family.norms + family.attention + compressor + family.experts + router, dense=False, sizes=sizes)


def chosen_sizes(facts: Facts) -> dict[str, int]:
    """chosen: the experts a token goes to."""
    return {"chosen": facts.first_number(("num_experts_per_tok", "moe_router_topk"))}


FAMILY = Family(
    name="deepseek4",
    title="DeepSeek-V4",
    model_types=("deepseek_v4",),
    architectures=("DeepseekV4ForCausalLM",),
    norms=NORMS,
    attention=ATTENTION + HYPER_CONNECTIONS,
    mlp=(),
    experts=EXPERTS,
    sizes=(compressed_attention_sizes, moe_sizes, shared_sizes, stream_sizes, chosen_sizes),
    layer=streamed_layer,
    embedding=(row("embed.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("norm.weight", JOINED_NORM, "hidden"), *JOINED_STREAMS),
    output=(row("head.weight", OUTPUT, "vocab hidden"),),
    tied_output=(row("head.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    mtp=Mtp(MTP_ROWS + tuple(replace(copy, written=False) for copy in MTP_COPIES), prefix="mtp.{mtp}."),
    layer_prefix="layers.{layer}.",
    one_schedule=True,
    names={"experts": "n_routed_experts", "shared": "n_shared_experts"},
    megatron={"multi_latent_attention": True, "qk_layernorm": True, "enable_dsa_indexer": True, "moe_router_enable_expert_bias": True},
)
# Its configuration is the other's, so only the copies in its MTP layers show it; what is written without a word about them has them.
BASE = replace(FAMILY, name="deepseek4_base", title="DeepSeek-V4, base models", model_types=(), architectures=(),
               mtp=Mtp(MTP_ROWS + MTP_COPIES, prefix="mtp.{mtp}."))  # fmt: skip
FAMILIES = (FAMILY, BASE)
