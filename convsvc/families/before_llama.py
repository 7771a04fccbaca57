"""Models of before Llama with projections of their own names: Phi-1 to 2, StableLM, StarCoder 1 and 2, Nemotron-4, MPT, Command R."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import (
    EMBEDDING,
    FINAL_NORM,
    FINAL_NORM_BIAS,
    OUTPUT_BIAS,
    OUTPUT_ROWS,
    POSITIONS,
    TIED_OUTPUT_ROWS,
)
from convsvc.blocks.glu import fourfold_sizes, ungated, ungated_sizes
from convsvc.blocks.gqa import GQA, O_BIAS, PACKED_QKV, PACKED_QKV_BIAS, PROJ, PROJ_BIAS, QKV, QKV_BIAS, QKV_BIASES, gqa_sizes, headed_sizes
from convsvc.blocks.norms import (
    INPUT_NORM,
    INPUT_NORM_BIAS,
    PARALLEL_NORM,
    PARALLEL_NORM_BIAS,
    PRE_MLP_NORM,
    PRE_MLP_NORM_BIAS,
    layer_norm,
)
from convsvc.families import llama2
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import logical, row

# A norm for each head, which heads do not share.
Q_NORMS = logical("self_attention.q_layernorms.weight", "group query head_dim")
EVERY_Q_NORM = logical("self_attention.every_q_layernorm.weight", "head head_dim")
K_NORMS = logical("self_attention.k_layernorms.weight", "group head_dim")
PHI_Q_NORM, PHI_K_NORM = (logical(f"self_attention.{side}_layernorm_with_bias.weight", "head_dim") for side in "qk")
PHI_Q_NORM_BIAS, PHI_K_NORM_BIAS = (logical(f"self_attention.{side}_layernorm_with_bias.bias", "head_dim") for side in "qk")
NORMS = layer_norm("input_layernorm", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm("post_attention_layernorm", PRE_MLP_NORM, PRE_MLP_NORM_BIAS)
ONE_NORM = layer_norm("input_layernorm", PARALLEL_NORM, PARALLEL_NORM_BIAS)
NORMED_END = layer_norm("model.norm", FINAL_NORM, FINAL_NORM_BIAS)


def phi_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm for both blocks, which are computed side by side."""
    norms = (
        row("self_attn.q_layernorm.weight", PHI_Q_NORM, "head_dim"),
        row("self_attn.q_layernorm.bias", PHI_Q_NORM_BIAS, "head_dim"),
        row("self_attn.k_layernorm.weight", PHI_K_NORM, "head_dim"),
        row("self_attn.k_layernorm.bias", PHI_K_NORM_BIAS, "head_dim"),
    )
    return LayerRows(family.norms + family.attention + (norms if facts.flag("qk_layernorm") else ()) + family.mlp)


def stablelm_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm where both blocks are computed side by side; a norm a head where the configuration says so."""
    head_norms = (
        row("self_attn.q_layernorm.norms.{head}.weight", EVERY_Q_NORM, "head_dim"),
        row("self_attn.k_layernorm.norms.{group}.weight", K_NORMS, "head_dim"),
    )
    norms = ONE_NORM if facts.flag("use_parallel_residual") else NORMS
    biases = QKV_BIASES if facts.flag("use_qkv_bias") else ()
    return LayerRows(norms + family.attention + biases + (head_norms if facts.flag("qk_layernorm") else ()) + family.mlp)


def head_sizes(facts: Facts) -> dict[str, int]:
    """head: the queries, where each has something of its own."""
    return {"head": facts.number("heads")}


def bigcode_sizes(facts: Facts) -> dict[str, int]:
    """One group where all queries share a key (multi_query), else as many as heads; the learned positions' number."""
    groups = 1 if facts.flag("multi_query", default=True) else facts.number("heads")
    positions = facts.first_number(("n_positions", "max_position_embeddings"), default=1024)
    return {**gqa_sizes(Facts({**facts.values, "num_key_value_heads": groups}, facts.origin)), "position": positions}


def bigcode_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """All queries, then the key and the value; where every head has its own, they are neighbours head by head."""
    if facts.flag("multi_query", default=True):
        return LayerRows(family.norms + family.attention + family.mlp)
    fused = (
        row("attn.c_attn.weight", QKV, "(group slot head_dim) hidden"),
        row("attn.c_attn.bias", QKV_BIAS, "(group slot head_dim)"),
    )
    return LayerRows(family.norms + fused + family.attention[2:] + family.mlp)


def cohere_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """One norm without a bias for both blocks, side by side."""
    norms = (
        row("self_attn.q_norm.weight", Q_NORMS, "(group query) head_dim"),
        row("self_attn.k_norm.weight", K_NORMS, "group head_dim"),
    )
    biases = QKV_BIASES + O_BIAS if facts.flag("attention_bias") else ()
    return LayerRows(family.norms + family.attention + biases + (norms if facts.flag("use_qk_norm") else ()) + family.mlp)


def mpt_sizes(facts: Facts) -> dict[str, int]:
    """Groups of one query; ffn is expansion_ratio times the hidden size."""
    ffn = facts.number("expansion_ratio", default=4) * facts.number("hidden")
    return {**headed_sizes(facts), "glu": 1, "ffn": facts.number("ffn_hidden_size", default=ffn)}


PHI = replace(
    llama2.FAMILY,
    name="phi",
    title="Phi-1, Phi-1.5, Phi-2",
    model_types=("phi", "phi-msft"),
    architectures=("PhiForCausalLM",),
    norms=ONE_NORM,
    attention=(
        *GQA[:3],
        *QKV_BIASES,
        row("self_attn.dense.weight", PROJ, "hidden (group query head_dim)"),
        row("self_attn.dense.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=ungated("mlp.fc1", "mlp.fc2", biased=True),
    sizes=(gqa_sizes, ungated_sizes),
    layer=phi_layer,
    fields=("qk_layernorm",),
    final_norm=layer_norm("model.final_layernorm", FINAL_NORM, FINAL_NORM_BIAS),
    output=(*OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    tied_output=(*TIED_OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    names={"epsilon": "layer_norm_eps"},
    partial_rotary=0.5,
    megatron=PLAIN,
)
STABLELM = replace(
    llama2.FAMILY,
    name="stablelm",
    title="StableLM",
    model_types=("stablelm", "stablelm_epoch"),
    architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    norms=NORMS,
    flags=(),
    sizes=(*llama2.FAMILY.sizes, head_sizes),
    layer=stablelm_layer,
    fields=("use_qkv_bias", "qk_layernorm", "use_parallel_residual"),
    final_norm=NORMED_END,
    names={"epsilon": "layer_norm_eps"},
    partial_rotary=0.25,
    megatron={"normalization": "LayerNorm"},
)
STARCODER2 = replace(
    llama2.FAMILY,
    name="starcoder2",
    title="StarCoder 2",
    model_types=("starcoder2",),
    architectures=("Starcoder2ForCausalLM",),
    norms=NORMS,
    mlp=ungated("mlp.c_fc", "mlp.c_proj", biased=False),
    flags=(("use_bias", QKV_BIASES + O_BIAS + ungated("mlp.c_fc", "mlp.c_proj", biased=True)[2:]),),
    sizes=(gqa_sizes, ungated_sizes),
    final_norm=NORMED_END,
    tied_by_default=True,
    names={"epsilon": "norm_epsilon"},
    megatron=PLAIN,
)
NEMOTRON = replace(
    STARCODER2,
    name="nemotron",
    title="Nemotron-4, Minitron",
    model_types=("nemotron",),
    architectures=("NemotronForCausalLM",),
    mlp=ungated("mlp.up_proj", "mlp.down_proj", biased=False),
    flags=(("attention_bias", QKV_BIASES + O_BIAS), ("mlp_bias", ungated("mlp.up_proj", "mlp.down_proj", biased=True)[2:])),
    tied_by_default=False,
    zero_centred=True,
    names={"epsilon": "norm_eps"},
    partial_rotary=0.5,
)
BIGCODE = replace(
    llama2.FAMILY,
    name="gpt-bigcode",
    title="StarCoder, SantaCoder (GPT-BigCode)",
    model_types=("gpt_bigcode",),
    architectures=("GPTBigCodeForCausalLM",),
    norms=layer_norm("ln_1", INPUT_NORM, INPUT_NORM_BIAS) + layer_norm("ln_2", PRE_MLP_NORM, PRE_MLP_NORM_BIAS),
    attention=(
        row("attn.c_attn.weight", PACKED_QKV),
        row("attn.c_attn.bias", PACKED_QKV_BIAS),
        row("attn.c_proj.weight", PROJ, "hidden (group query head_dim)"),
        row("attn.c_proj.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=ungated("mlp.c_fc", "mlp.c_proj", biased=True),
    flags=(),
    sizes=(bigcode_sizes, fourfold_sizes),
    layer=bigcode_layer,
    fields=("multi_query", "n_positions"),
    embedding=(
        row("transformer.wte.weight", EMBEDDING, "vocab hidden"),
        row("transformer.wpe.weight", POSITIONS, "position hidden"),
    ),
    final_norm=layer_norm("transformer.ln_f", FINAL_NORM, FINAL_NORM_BIAS),
    tied_by_default=True,
    layer_prefix="transformer.h.{layer}.",
    ignored=(r"\.attn\.(bias|masked_bias)$",),
    names={"layers": "n_layer", "heads": "n_head", "ffn": "n_inner", "epsilon": "layer_norm_epsilon"},
    megatron={**PLAIN, "position_embedding_type": "learned_absolute", "use_rotary_position_embeddings": False},
)
MPT = replace(
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
COHERE = replace(
    llama2.FAMILY,
    name="cohere",
    title="Command R, R+, R7B",
    model_types=("cohere", "cohere2"),
    architectures=("CohereForCausalLM", "Cohere2ForCausalLM"),
    norms=(row("input_layernorm.weight", PARALLEL_NORM, "hidden"),),
    flags=(),
    layer=cohere_layer,
    fields=("use_qk_norm", "attention_bias"),
    tied_by_default=True,
    names={"epsilon": "layer_norm_eps"},
    megatron={"normalization": "LayerNorm", "rotary_interleaved": True},
)
FAMILIES = (PHI, STABLELM, STARCODER2, NEMOTRON, BIGCODE, MPT, COHERE)
