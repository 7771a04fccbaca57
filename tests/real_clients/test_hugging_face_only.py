"""Families whose mathematics has no place in Megatron's model: repacked, through torch's format and back, they compute what they did."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.plan.planner import make_plan
from tests.families.text_families import HUGGING_FACE_ONLY
from tests.real_clients import test_wrapped_text
from tests.real_clients.tiny_models import NEMOTRON_H, Tiny, load, logits, save_random

KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")
pytestmark = pytest.mark.real_client
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERT = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LFM2_MOE = {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1, "num_experts": 4}
GEMMA4 = {
    "head_dim": 12, "global_head_dim": 16, "num_global_key_value_heads": 2, "sliding_window": 4, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
SMALL_GEMMA4 = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
LAGUNA = {"head_dim": 12, "num_attention_heads_per_layer": [8, 16, 8, 8], "num_experts": 4, "shared_expert_intermediate_size": 24}
KIMI_LINEAR = {
    "num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 1, "moe_intermediate_size": 16, "q_lora_rank": None,
    "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 10, "num_heads": 4, "short_conv_kernel_size": 4},
}  # fmt: skip
GEMMA3N = {
    "head_dim": 12, "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 64, "num_kv_shared_layers": 1, "laurel_rank": 5,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4, "sliding_window": 4,
}  # fmt: skip
BAILING_HYBRID = {
    "kv_lora_rank": 16, "qk_rope_head_dim": 4, "v_head_dim": 12, "qk_nope_head_dim": 8, "n_group": 1, "topk_group": 1,
    "num_local_experts": 4, "first_k_dense_replace": 1, "head_dim": 10, "layer_group_size": 2, "num_key_value_heads": 8,
}  # fmt: skip
OLD = {"n_layer": 4, "n_head": 8, "n_embd": 32, "n_positions": 16, "rotary_dim": 4}
OPT_350M = {"ffn_dim": 48, "max_position_embeddings": 20, "word_embed_proj_dim": 20, "do_layer_norm_before": False}
MIXER = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 6}
GRANITE4 = {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 6, "use_mamba_kernels": False}
COHERE_MOE = {
    "head_dim": 12, "num_experts": 4, "num_shared_experts": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "prefix_dense_intermediate_size": 40, "sliding_window": 4,
}  # fmt: skip

MODELS = (
    Tiny("olmo", "OlmoConfig", ENDS),
    Tiny("gemma3n", "Gemma3nTextConfig", {**GEMMA3N, **ENDS}),
    Tiny("bailing_hybrid", "BailingHybridConfig", {**BAILING_HYBRID, **EXPERT, **ENDS}),
    Tiny("opt-350m", "OPTConfig", {**OPT_350M, **ENDS}),
    Tiny("olmo2", "Olmo2Config", ENDS),
    Tiny("olmo2", "Olmo3Config", {**ENDS, "sliding_window": 4}),
    Tiny("exaone4", "Exaone4Config", {"head_dim": 12, "sliding_window": 4, "sliding_window_pattern": 2}),
    Tiny("gpt-neox", "GPTNeoXConfig", ENDS),
    Tiny("bloom", "BloomConfig", {"n_layer": 4, "n_head": 8, **ENDS}),
    Tiny("falcon", "FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2, **ENDS}),
    Tiny("falcon", "FalconConfig", {"multi_query": True, **ENDS}),
    Tiny("phi", "PhiConfig", {"qk_layernorm": True, **ENDS}),
    Tiny("stablelm", "StableLmConfig", {"qk_layernorm": True, "use_parallel_residual": True, **ENDS}),
    Tiny("gptj", "GPTJConfig", {**OLD, **ENDS}),
    Tiny("codegen", "CodeGenConfig", {**OLD, **ENDS}),
    Tiny("cohere", "CohereConfig", {"use_qk_norm": True, **ENDS}),
    Tiny("cohere", "Cohere2Config", {"head_dim": 12, "sliding_window": 4, **ENDS}),
    Tiny("gpt-oss", "GptOssConfig", {"head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4, **ENDS}),
    Tiny("nemotron-h", "NemotronHConfig", {**NEMOTRON_H, "moe_latent_size": 16, **ENDS}),
    Tiny("gemma4", "Gemma4TextConfig", {**GEMMA4, "attention_k_eq_v": True, **ENDS}),
    Tiny("gemma4", "Gemma4TextConfig", {**GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, **EXPERT, **ENDS}),
    Tiny("gemma4-edge", "Gemma4TextConfig", {**GEMMA4, **SMALL_GEMMA4, **ENDS}),
    Tiny("kimi-linear", "KimiLinearConfig", {**KIMI_LINEAR, **ENDS}),
    Tiny("minimax_m1", "MiniMaxConfig", {"head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2, **ENDS}),
    Tiny("lfm2", "Lfm2Config", {"layer_types": ["conv", "full_attention", "conv", "conv"], **ENDS}),
    Tiny(
        "lfm2-moe",
        "Lfm2MoeConfig",
        {**LFM2_MOE, **EXPERT, **ENDS},
    ),
    Tiny("flex-olmo", "FlexOlmoConfig", {"num_experts": 4, "num_experts_per_tok": 2, **ENDS}),
    Tiny("apertus", "ApertusConfig", {"head_dim": 12, **ENDS}),
    Tiny("bitnet", "BitNetConfig", ENDS),
    Tiny("afmoe", "AfmoeConfig", {"head_dim": 12, "num_experts": 4, "num_dense_layers": 1, "sliding_window": 4, **EXPERT, **ENDS}),
    Tiny("cohere2-moe", "Cohere2MoeConfig", {**COHERE_MOE, "num_experts_per_tok": 2, **ENDS}),
    Tiny("granite4", "GraniteMoeHybridConfig", {**MIXER, **GRANITE4, **ENDS}),
    Tiny("granite4", "GraniteMoeHybridConfig", {**MIXER, **GRANITE4, "num_local_experts": 0, "num_experts_per_tok": 0, **ENDS}),
    Tiny("bamba", "BambaConfig", {**MIXER, "attn_layer_indices": [1, 3], "mlp_bias": True, **ENDS}),
    Tiny("falcon-h1", "FalconH1Config", {**MIXER, "mamba_d_ssm": 64, **ENDS}),
    Tiny("falcon-h1", "FalconH1Config", {**MIXER, "mamba_d_ssm": 64, "mamba_rms_norm": True, **ENDS}),
    Tiny("jamba", "JambaConfig", {**JAMBA, "num_experts_per_tok": 2, **ENDS}),
    Tiny("mamba", "MambaConfig", {"state_size": 6, **ENDS}),
    Tiny("falcon-mamba", "FalconMambaConfig", {"state_size": 6, **ENDS}),
    Tiny("olmo-hybrid", "OlmoHybridConfig", {"linear_key_head_dim": 6, "linear_value_head_dim": 6, **ENDS}),
    Tiny("recurrent-gemma", "RecurrentGemmaConfig", {"lru_width": 40, "conv1d_width": 3, **ENDS}),
    Tiny("persimmon", "PersimmonConfig", ENDS),
    Tiny("nanochat", "NanoChatConfig", {"attention_bias": True, **ENDS}),
    Tiny("diffllama", "DiffLlamaConfig", {"head_dim": 12, "attention_bias": True, **ENDS}),
    Tiny("doge", "DogeConfig", {"attention_bias": True, "mlp_bias": True, **ENDS}),
    Tiny("doge", "DogeConfig", {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4, **ENDS}),
    Tiny("jetmoe", "JetMoeConfig", {"kv_channels": 12, "num_local_experts": 4, "num_experts_per_tok": 2, **ENDS}),
    Tiny("xglm", "XGLMConfig", {"ffn_dim": 48, "max_position_embeddings": 24, **ENDS}),
    Tiny("biogpt", "BioGptConfig", {"max_position_embeddings": 24, **ENDS}),
    Tiny("laguna", "LagunaConfig", {**LAGUNA, **EXPERT, **ENDS}),
    Tiny("mimo-v2", "MiMoV2FlashConfig", {"head_dim": 12, "v_head_dim": 8, "n_routed_experts": 4, **EXPERT, **ENDS}),
)


def test_every_family_without_a_place_in_rank_files_is_here() -> None:
    assert {tiny.family for tiny in MODELS} | set(test_wrapped_text.MODELS) | {"kimi-k3"} >= HUGGING_FACE_ONLY


@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_a_model_that_went_through_torchs_format_gives_the_same_logits(tiny: Tiny, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=False)
    assert find_family(None, Facts(json.loads((source / "config.json").read_text()), "config.json")).name == tiny.family
    read = {"format": "huggingface", "path": str(source)}
    convert({"source": read, "target": {"format": "dcp", "path": str(tmp_path / "dcp"), "shards": 2}}, engine="inline")
    there = {"format": "dcp", "path": str(tmp_path / "dcp")}
    convert({"source": there, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    model, _ = load(source)
    again, info = load(tmp_path / "back")
    computed = re.compile("|".join(FAMILIES[tiny.family].ignored) or "$^")
    assert not [name for kind in KINDS for name in info[kind] if not computed.search(str(name))], info
    want = logits(model)
    assert want.isfinite().all()
    assert torch.equal(want, logits(again))


@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_rank_files_refuse_it_by_the_name_of_what_has_no_place(tiny: Tiny, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=False)
    with pytest.raises(LayoutError, match=f"mindspeed-llm has no place for .* of {tiny.family}"):
        make_plan(
            {
                "source": {"format": "huggingface", "path": str(source)},
                "target": {"format": "mindspeed-llm", "path": str(tmp_path / "mg")},
            }
        )
