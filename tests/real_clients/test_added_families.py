"""Families added by the recipe (docs/adding-a-family.md): transformers computes after a round trip what it computed before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from convsvc.families import Facts, find_family
from tests.real_clients.test_transformers import there_and_back
from tests.real_clients.tiny_models import DEEPSEEK, EXPERTS, GROUPED, MLA, NEMOTRON_H, Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client
ROUTING = {"num_local_experts": 4, "num_experts_per_tok": 2}
# Factors of Granite's that are no power of two, so that one which is lost shows.
FACTORS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2, "logits_scaling": 1.7}
SHARED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BIASED = {"attention_bias": True, "mlp_bias": True}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 10}
LLAMA4 = {"head_dim": 12, "num_local_experts": 4, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2}
GRANITE4 = {"layer_types": ["attention"] * 4, "mamba_n_heads": 8, "shared_intermediate_size": 24, "num_local_experts": 0}
DBRX = {
    "d_model": 32, "n_heads": 8, "n_layers": 4, "max_seq_len": 64, **ENDS,
    "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
}  # fmt: skip

MODELS = (
    Tiny("mixtral", "MixtralConfig", ROUTING, {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}),
    Tiny("mixtral", "MixtralConfig", ROUTING, {"pipeline_parallel_size": 2, "expert_parallel_size": 4}),
    Tiny("mixtral", "MixtralConfig", ROUTING, {"tensor_parallel_size": 2, "moe_tp_extend_ep": True}),
    Tiny("glm4", "Glm4Config", {"head_dim": 12, "attention_bias": True, "pad_token_id": 0}),
    Tiny("glm4", "Glm4Config", {"head_dim": 4, "attention_bias": False, "pad_token_id": 0}, {"transformer_impl": "transformer_engine"}),
    Tiny("glm", "GlmConfig", {"head_dim": 12, "attention_bias": True, "pad_token_id": 0}),
    Tiny("llama2", "IQuestCoderConfig", {"head_dim": 12}),
    Tiny("magistral", "Ministral3Config", {"head_dim": 12}),
    Tiny("magistral", "MinistralConfig", {"head_dim": 12, "sliding_window": 4}),
    Tiny("granite", "GraniteConfig", {**FACTORS, **BIASED}),
    Tiny("granitemoe", "GraniteMoeConfig", {**FACTORS, **ROUTING, "attention_bias": True}, GROUPED),
    Tiny("granitemoeshared", "GraniteMoeSharedConfig", {**FACTORS, **ROUTING, "shared_intermediate_size": 24}, GROUPED),
    Tiny("smollm3", "SmolLM3Config", {**ENDS, "no_rope_layer_interval": 2, "attention_bias": True}),
    Tiny("ernie4.5", "Ernie4_5Config", {"head_dim": 12, "use_bias": True}),
    Tiny("internlm3", "InternLM3Config", {"head_dim": 12, **BIASED}),
    Tiny("gemma", "GemmaConfig", {"head_dim": 12}),
    Tiny("gemma3", "Gemma3TextConfig", {"head_dim": 12, "sliding_window": 4, "sliding_window_pattern": 2}),
    Tiny("glm4-moe-lite", "Glm4MoeLiteConfig", DEEPSEEK, GROUPED),
    Tiny(
        "glm4-moe-lite",
        "Glm4MoeLiteConfig",
        {**DEEPSEEK, "mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
        {"tensor_parallel_size": 2, "expert_parallel_size": 2},
    ),
    Tiny("dots1", "Dots1Config", {**SHARED, "head_dim": 12, "first_k_dense_replace": 1, "attention_bias": True}, GROUPED),
    Tiny("solar-open", "SolarOpenConfig", {**SHARED, "head_dim": 12}, GROUPED),
    Tiny("minicpm3", "MiniCPM3Config", {**MLA, "q_lora_rank": 24, "scale_emb": 3, "scale_depth": 1.4}),
    Tiny("youtu", "YoutuConfig", {**MLA, "q_lora_rank": 24}),
    Tiny("cwm", "CwmConfig", {"head_dim": 12, "sliding_window": 4}),
    Tiny("helium", "HeliumConfig", {"head_dim": 4}),
    Tiny("arcee", "ArceeConfig", {"head_dim": 12, **BIASED}),
    Tiny("qwen3.5", "Qwen3_5TextConfig", {**DELTA, "head_dim": 12}),
    Tiny("qwen3.5-moe", "Qwen3_5MoeTextConfig", {**DELTA, **EXPERTS, "head_dim": 12, "shared_expert_intermediate_size": 24}, GROUPED),
    Tiny(
        "olmoe",
        "OlmoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, **ENDS},
        {"pipeline_parallel_size": 2, "expert_parallel_size": 2},
    ),
    Tiny("exaone-moe", "ExaoneMoeConfig", {**EXPERTS, "head_dim": 12, "num_shared_experts": 1, "first_k_dense_replace": 1}, GROUPED),
    Tiny("hunyuan", "HunYuanDenseV1Config", {"head_dim": 12, **ENDS}),
    Tiny("hunyuan-moe", "HunYuanMoEV1Config", {"head_dim": 12, "num_experts": 4, "moe_topk": 2, **ENDS}, GROUPED),
    Tiny(
        "ernie4.5-moe",
        "Ernie4_5_MoeConfig",
        {"head_dim": 12, "moe_num_experts": 4, "moe_num_shared_experts": 2, "moe_intermediate_size": 16, "moe_k": 2, **ENDS},
        GROUPED,
    ),
    Tiny("llama4", "Llama4TextConfig", {**LLAMA4, **ENDS}, GROUPED),
    Tiny("gpt-neox", "GPTNeoXConfig", {"use_parallel_residual": False, **ENDS}),
    Tiny("falcon", "FalconConfig", {"multi_query": False, "parallel_attn": False, "bias": True, **ENDS}),
    Tiny("stablelm", "StableLmConfig", {"use_qkv_bias": True, **ENDS}),
    Tiny("starcoder2", "Starcoder2Config", {"use_bias": True, **ENDS}),
    Tiny("nemotron", "NemotronConfig", {"head_dim": 12, **ENDS}),
    Tiny("gpt-bigcode", "GPTBigCodeConfig", {"multi_query": False, "n_layer": 4, "n_head": 8, "n_embd": 32, "n_positions": 16, **ENDS}),
    Tiny("gpt2", "GPT2Config", {"n_layer": 4, "n_head": 8, "n_embd": 32, "n_positions": 16, **ENDS}),
    Tiny(
        "gpt-neo",
        "GPTNeoConfig",
        {"num_layers": 4, "num_heads": 8, "max_position_embeddings": 16, "attention_types": [[["global", "local"], 2]], **ENDS},
    ),
    Tiny("nemotron-h", "NemotronHConfig", {**NEMOTRON_H, **ENDS}, GROUPED),
    Tiny("jais2", "Jais2Config", {"head_dim": 12, **ENDS}),
    Tiny("mellum", "MellumConfig", {**EXPERTS, "head_dim": 12, "layer_types": ["sliding_attention", "full_attention"] * 2}, GROUPED),
    Tiny("hyperclovax", "HyperCLOVAXConfig", {**FACTORS, "head_dim": 12, **BIASED, **ENDS}),
    Tiny("hyperclovax", "HyperCLOVAXConfig", {"use_post_norm": False, **ENDS}),
    Tiny("vaultgemma", "VaultGemmaConfig", {"head_dim": 12, "sliding_window": 4}),
    Tiny("axk1", "AXK1Config", {**DEEPSEEK, **ENDS}, GROUPED),
    Tiny("dbrx", "DbrxConfig", DBRX, GROUPED),
    Tiny("granite4", "GraniteMoeHybridConfig", {**FACTORS, **GRANITE4, **ENDS}),
    Tiny("opt", "OPTConfig", {"ffn_dim": 48, "max_position_embeddings": 20, **ENDS}),
    Tiny("mpt", "MptConfig", {"n_layers": 4, "n_heads": 8, "d_model": 32, **ENDS}),
)


# transformers' class saves a head of its own, whatever the configuration says of it, or refuses a tied one.
NEVER_TIED = {"nemotron-h", "dbrx"}
CASES = [
    pytest.param(tiny, tied, id=f"{tiny.family}-{at}-{'tied' if tied else 'untied'}")
    for at, tiny in enumerate(MODELS)
    for tied in (False, True)
    if not (tied and tiny.family in NEVER_TIED)
]


@pytest.mark.parametrize(("tiny", "tied"), CASES)
def test_a_round_tripped_model_gives_the_same_logits(tiny: Tiny, tied: bool, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=tied)
    assert find_family(None, Facts(json.loads((source / "config.json").read_text()), "config.json")).name == tiny.family
    model, _ = load(source)
    again, info = load(there_and_back(tiny, source, tmp_path))
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    want = logits(model)
    assert want.isfinite().all()
    assert want.std() > 0
    assert torch.equal(want, logits(again))
