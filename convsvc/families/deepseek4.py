"""DeepSeek-V4: compressed sparse attention, residual streams, experts in every layer, the first layers' chosen by the token itself.

Published under DeepSeek's own names; transformers saves others, which are read. The base models' MTP layers repeat the embedding and
the head (`deepseek4_base`).
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
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
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
    row("e_proj.weight", EH_PROJ.at(part="0"), "hidden input", linear="layer"),
    row("h_proj.weight", EH_PROJ.at(part="1"), "hidden input", linear="layer"),
    *JOINED_STREAMS,
)
MTP_COPIES = (
    row("emb.tok_emb.weight", MTP_EMBEDDING, "vocab hidden", optional=True),
    row("head.weight", MTP_OUTPUT, "vocab hidden", optional=True),
)
PACKED = (
    row("ffn.experts.gate_up_proj", EXPERT_FC1, "expert (glu expert_ffn) hidden"),
    row("ffn.experts.down_proj", EXPERT_FC2, "expert hidden expert_ffn"),
)
# transformers 5.23, conversion_mapping.py, "deepseek_v4", the other way round. It writes two spellings: its modules' names with
# save_original_format=False, and otherwise DeepSeek's but for the embedding, the joined streams and the key's norm.
TRANSFORMERS_NAMES = (
    (r"(^|\.)embed_tokens\.weight$", r"\1embed.weight"),
    (r"(^|\.)lm_head\.weight$", r"\1head.weight"),
    (r"(^|\.)hc_head\.hc_(fn|base|scale)$", r"\1hc_head_\2"),
    (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.", ".attn."),
    (r"\.attn\.norm\.", ".attn.kv_norm."),
    (r"\.attn\.sinks$", ".attn.attn_sink"),
    (r"\.compressor\.indexer\.scorer\.", ".indexer."),
    (r"\.compressor\.indexer\.q_b_proj\.", ".indexer.wq_b."),
    (r"\.compressor\.indexer\.", ".indexer.compressor."),
    (r"\.compressor\.kv_norm\.", ".compressor.norm."),
    (r"\.compressor\.gate_proj\.", ".compressor.wgate."),
    (r"\.compressor\.position_bias$", ".compressor.ape"),
    (r"\.kv_proj\.", ".wkv."),
    (r"\.attn\.q_a_norm\.", ".attn.q_norm."),
    (r"\.attn\.([qo]_[ab])_proj\.", r".attn.w\1."),
    (r"\.mlp\.", ".ffn."),
    (r"\.gate\.e_score_correction_bias$", ".gate.bias"),
    (r"experts((?:\.\d+)?)\.gate_proj\.", r"experts\1.w1."),
    (r"experts((?:\.\d+)?)\.down_proj\.", r"experts\1.w2."),
    (r"experts((?:\.\d+)?)\.up_proj\.", r"experts\1.w3."),
)


def streamed_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """All of it in every layer; a compressor where the layer's ratio says so, a table of experts in the first num_hash_layers."""
    compressor, sizes = compressor_of(facts, layer)
    router = BY_TOKEN if layer < hash_layers(facts) else BY_SCORE
    return LayerRows(family.norms + family.attention + compressor + family.experts + router, dense=False, sizes=sizes)


def hash_layers(facts: Facts) -> int:
    """How many of the first layers choose experts by the token: DeepSeek's number, or transformers' mlp_layer_types.

    Raises SourceError if these two differ, or are no such number.
    """
    names = ("num_hash_layers", "n_hash_layers")
    kinds = facts.items("mlp_layer_types", str)
    if kinds is None:
        return facts.first_number(names)
    count = kinds.count("hash_moe")
    if kinds[:count] != ("hash_moe",) * count or set(kinds[count:]) - {"moe"}:
        raise SourceError(f"{facts.origin}: mlp_layer_types is {shown(kinds)}; it must be so many 'hash_moe', and then 'moe'")
    if facts.first_number(names, count) != count:
        raise SourceError(f"{facts.origin}: num_hash_layers is {facts.first_number(names)}, mlp_layer_types has {count} 'hash_moe'")
    return count


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
    packed=PACKED,
    spelling=TRANSFORMERS_NAMES,
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
