"""Families that differ from a sibling in few rows: what shows them, the rows of each kind of layer, sizes that nobody states."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import FAMILIES, Facts, find_family

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 4,
    "vocab_size": 64,
}  # fmt: skip
SHOWN: dict[str, dict[str, Any]] = {
    "olmo-hybrid": {"model_type": "olmo_hybrid", "architectures": ["OlmoHybridForCausalLM"]},
    "recurrent-gemma": {"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"]},
    "persimmon": {"model_type": "persimmon", "architectures": ["PersimmonForCausalLM"]},
    "nanochat": {"model_type": "nanochat", "architectures": ["NanoChatForCausalLM"]},
    "diffllama": {"model_type": "diffllama", "architectures": ["DiffLlamaForCausalLM"]},
    "doge": {"model_type": "doge", "architectures": ["DogeForCausalLM"]},
    "jetmoe": {"model_type": "jetmoe", "architectures": ["JetMoeForCausalLM"], "num_local_experts": 4},
    "xglm": {"model_type": "xglm", "architectures": ["XGLMForCausalLM"]},
    "biogpt": {"model_type": "biogpt", "architectures": ["BioGptForCausalLM"]},
}


def shapes_of(family: str, **said: Any) -> dict[str, tuple[int, ...]]:
    model = FAMILIES[family].build(Facts({**SIZES, **SHOWN[family], **said}, "config.json"))
    return {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}


@pytest.mark.parametrize("family", SHOWN)
def test_a_configuration_shows_it_by_either_field(family: str) -> None:
    for field in ("model_type", "architectures"):
        assert find_family(None, Facts({field: SHOWN[family][field]}, "config.json")).name == family


def test_every_fourth_layer_of_olmo_hybrid_has_full_attention_and_its_norms_behind() -> None:
    shapes = shapes_of("olmo-hybrid")
    full = {name for name in shapes if name.startswith("model.layers.3.")}
    assert {name.split(".")[3] for name in full} == {"self_attn", "mlp", "post_attention_layernorm", "post_feedforward_layernorm"}
    assert {name.split(".")[3] for name in shapes if name.startswith("model.layers.2.")} == {
        "linear_attn", "mlp", "attention_layer_norm", "feedforward_layer_norm",
    }  # fmt: skip
    # Three quarters of the hidden size for all keys, twice that for all values.
    assert shapes["model.layers.2.linear_attn.k_proj.weight"] == (24, 32)
    assert shapes["model.layers.2.linear_attn.v_conv1d.weight"] == (48, 1, 4)
    assert "model.layers.1.self_attn.q_proj.weight" in shapes_of("olmo-hybrid", num_hidden_layers=2)


def test_layers_of_recurrent_gemma_repeat_the_kinds_that_it_names() -> None:
    usual = shapes_of("recurrent-gemma")
    assert [f"model.layers.{layer}.temporal_block.q_proj.weight" in usual for layer in range(4)] == [False, False, True, False]
    stated = shapes_of("recurrent-gemma", block_types=["attention", "recurrent"], lru_width=40)
    assert [f"model.layers.{layer}.temporal_block.q_proj.weight" in stated for layer in range(4)] == [True, False, True, False]
    assert stated["model.layers.1.temporal_block.rg_lru.input_gate_weight"] == (8, 5, 5)
    assert stated["model.layers.1.mlp_block.up_proj.weight"] == (24, 32)


def test_persimmon_has_norms_of_heads_unless_it_denies_them() -> None:
    assert shapes_of("persimmon")["model.layers.0.self_attn.q_layernorm.bias"] == (4,)
    assert "model.layers.0.self_attn.q_layernorm.bias" not in shapes_of("persimmon", qk_layernorm=False)


def test_retrieved_experts_of_doge_are_rows_of_embeddings() -> None:
    assert not any("embed.weight" in name for name in shapes_of("doge"))
    shapes = shapes_of("doge", is_moe=True, num_experts=25)
    assert shapes["model.layers.0.mlp.router_gate.weight"] == (10, 32)
    assert shapes["model.layers.0.mlp.up_embed.weight"] == (25, 32)


def test_attention_of_jetmoe_is_as_wide_as_its_channels_say() -> None:
    shapes = shapes_of("jetmoe", kv_channels=12)
    assert shapes["model.layers.0.self_attention.kv_proj.weight"] == (96, 32)
    assert shapes["model.layers.0.self_attention.experts.output_linear.weight"] == (4, 32, 48)


def test_xglm_says_its_numbers_under_names_of_its_own() -> None:
    said = {"d_model": 24, "ffn_dim": 40, "num_layers": 1, "attention_heads": 6, "vocab_size": 64, **SHOWN["xglm"]}
    model = FAMILIES["xglm"].build(Facts(said, "config.json"))
    shapes = {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}
    assert shapes["model.layers.0.fc1.weight"] == (40, 24)
    assert "model.layers.1.fc1.weight" not in shapes
    assert shapes_of("biogpt", max_position_embeddings=10)["biogpt.embed_positions.weight"] == (12, 32)
