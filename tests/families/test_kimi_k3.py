"""Kimi-K3: the published checkpoint's names and shapes, for which transformers has no class."""

from __future__ import annotations

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import Facts, find_family

DELTA = {"full_attn_layers": [4, 5], "head_dim": 128, "kda_layers": [1, 2, 3], "num_heads": 96, "short_conv_kernel_size": 4}
K3 = {
    "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", "attn_res_block_size": 12, "first_k_dense_replace": 1,
    "hidden_size": 7168, "intermediate_size": 33792, "kv_lora_rank": 512, "linear_attn_config": DELTA, "moe_intermediate_size": 3072,
    "moe_layer_freq": 1, "num_attention_heads": 96, "num_experts": 896, "num_experts_per_token": 16, "num_hidden_layers": 5,
    "num_key_value_heads": 96, "num_shared_experts": 2, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "routed_expert_hidden_size": 3584, "v_head_dim": 128, "vocab_size": 163840, "tie_word_embeddings": False,
}  # fmt: skip
# Headers of the published checkpoint: one layer of either kind of attention.
KDA = {
    "self_attention_res_norm.weight": (7168,), "self_attention_res_proj.weight": (1, 7168), "input_layernorm.weight": (7168,),
    "self_attn.q_proj.weight": (12288, 7168), "self_attn.q_conv1d.weight": (12288, 1, 4), "self_attn.f_a_proj.weight": (128, 7168),
    "self_attn.f_b_proj.weight": (12288, 128), "self_attn.A_log": (128,), "self_attn.dt_bias": (12288,),
    "self_attn.b_proj.weight": (96, 7168),
    "self_attn.g_proj.weight": (12288, 7168), "self_attn.o_norm.weight": (128,), "self_attn.o_proj.weight": (7168, 12288),
    "mlp_res_norm.weight": (7168,), "mlp_res_proj.weight": (1, 7168), "block_sparse_moe.gate.weight": (896, 7168),
    "block_sparse_moe.gate.e_score_correction_bias": (896,), "block_sparse_moe.routed_expert_down_proj.weight": (3584, 7168),
    "block_sparse_moe.routed_expert_norm.weight": (3584,), "block_sparse_moe.routed_expert_up_proj.weight": (7168, 3584),
    "block_sparse_moe.experts.895.w1.weight": (3072, 3584), "block_sparse_moe.experts.0.w2.weight": (3584, 3072),
    "block_sparse_moe.shared_experts.gate_proj.weight": (6144, 7168),
}  # fmt: skip
LATENT = {"self_attn.q_a_proj.weight": (1536, 7168), "self_attn.g_proj.weight": (12288, 7168), "self_attn.kv_b_proj.weight": (24576, 512)}
ENDS = {"model.output_attn_res_norm.weight": (7168,), "model.output_attn_res_proj.weight": (1, 7168), "model.norm.weight": (7168,)}


def test_a_configuration_with_weighed_residuals_is_kimi_k3_and_one_without_is_kimi_linear() -> None:
    assert find_family(None, Facts(K3, "config.json")).name == "kimi-k3"
    assert find_family(None, Facts(K3 | {"attn_res_block_size": None}, "config.json")).name == "kimi-linear"


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    facts = Facts(K3, "config.json")
    have = {laid.name: laid.shape for laid in lay_model(find_family(None, facts).build(facts)).kinds}
    listed = {f"model.layers.1.{name}": shape for name, shape in KDA.items()}
    listed |= {f"model.layers.3.{name}": shape for name, shape in LATENT.items()} | ENDS
    assert {name: have.get(name) for name in listed} == listed
    assert not any("q_conv1d" in name for name in have if name.startswith(("model.layers.3.", "model.layers.4.")))
    assert len(have) == 3 + 2 + 5 * 2 + 5 * 4 + 3 * 14 + 2 * 8 + 3 + 4 * (2 + 3 + 3 + 896 * 3)
