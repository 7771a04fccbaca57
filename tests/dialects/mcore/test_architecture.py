"""What blocks have saved args say: each of its own axes, under Megatron's names, and nothing where a model has them not."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.dialects.mcore.architecture import architecture_args
from convsvc.families import FAMILIES, Facts
from tests.families import hybrid_models, latent_models
from tests.families.tiny_configs import BASE

# Of every decoder, whatever its blocks are.
DECODERS = {
    "model_type_hf", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "tie_word_embeddings",
    "untie_embeddings_and_output_weights", "max_position_embeddings", "norm_epsilon", "normalization", "swiglu", "add_bias_linear",
    "position_embedding_type", "use_rotary_position_embeddings", "rotary_base",
}  # fmt: skip
GQA = {"num_key_value_heads": 4, "num_query_groups": 4, "group_query_attention": True, "kv_channels": 2}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def of_blocks(family: str, config: dict[str, Any]) -> dict[str, Any]:
    facts = Facts(config, "config.json")
    args = architecture_args(FAMILIES[family].build(facts), facts)
    return {name: value for name, value in args.items() if name not in DECODERS}


def test_a_dense_model_says_its_groups_and_its_width() -> None:
    assert of_blocks("llama2", BASE) == {**GQA, "ffn_hidden_size": 24}


def test_biases_that_layers_have_are_switched_on() -> None:
    args = of_blocks("llama2", {**BASE, "attention_bias": True, "mlp_bias": True})
    assert args == {**GQA, "ffn_hidden_size": 24, "add_qkv_bias": True}
    facts = Facts({**BASE, "mlp_bias": True}, "config.json")
    assert architecture_args(FAMILIES["llama2"].build(facts), facts)["add_bias_linear"]


@pytest.mark.parametrize("shared", [0, 2])
def test_experts_say_their_number_their_widths_and_their_layers(shared: int) -> None:
    config = {**BASE, **MOE, "n_routed_experts": 4, "n_shared_experts": shared, "first_k_dense_replace": 1}
    assert of_blocks("deepseek", config) == {
        **GQA,
        "ffn_hidden_size": 24,
        "num_experts": 4,
        "moe_ffn_hidden_size": 8,
        "moe_router_topk": 2,
        "moe_layer_freq": [0, 1, 1, 1],
        "first_k_dense_replace": 1,
        **({"moe_shared_expert_intermediate_size": 16} if shared else {}),
    }


def test_latent_attention_says_its_ranks_and_no_groups() -> None:
    config = latent_models.CONFIGS["deepseek3"]
    args = of_blocks("deepseek3", config)
    assert not set(GQA) & set(args)
    assert [args[name] for name in ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")] == [
        config[name] for name in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    ]
    assert "indexer_types" not in args


def test_layers_with_an_indexer_of_their_own_are_said_one_by_one() -> None:
    args = of_blocks("deepseek32", latent_models.CONFIGS["deepseek32"])
    assert set(args["indexer_types"]) == {"full"}


def test_mixers_say_both_frameworks_names() -> None:
    args = of_blocks("mamba2", hybrid_models.CONFIGS["mamba2"])
    assert set(args) == {
        "state_size", "mamba_state_dim", "n_groups", "mamba_num_groups", "head_dim", "mamba_head_dim", "num_heads", "mamba_num_heads",
        "conv_kernel",
    }  # fmt: skip


def test_compressed_attention_says_its_ratios_layer_by_layer() -> None:
    config = hybrid_models.CONFIGS["deepseek4"]
    args = of_blocks("deepseek4", config)
    assert args["compress_ratios"][: config["num_hidden_layers"]] == config["compress_ratios"][: config["num_hidden_layers"]]
    assert args["num_hash_layers"] == args["n_hash_layers"]
