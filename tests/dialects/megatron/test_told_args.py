"""What `--use-checkpoint-args` reads of a new torch_dist: also what a configuration says in another form, or leaves to its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.dialects.megatron.own_args import own_args
from convsvc.dialects.megatron.told_args import untold
from convsvc.families import Facts, Wanted, find_family
from convsvc.models.model import Model
from tests.dialects.dcp.made import in_safetensors, same
from tests.dialects.megatron.test_integrity import write_model
from tests.dialects.megatron.test_megatron import MOE, back, run, written

BASE = {
    "hidden_size": 16, "vocab_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
MIXERS = {
    "model_type": "nemotron_h", "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "n_routed_experts": 4,
    "moe_intermediate_size": 8, "num_experts_per_tok": 2, "moe_shared_expert_intermediate_size": 8, "mlp_hidden_act": "relu2",
}  # fmt: skip
DBRX = {
    "model_type": "dbrx", "d_model": 16, "n_layers": 2, "n_heads": 4, "vocab_size": 32, "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 4},
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "half of a head has positions, as the class says": (BASE | {"model_type": "nemotron"}, {"rotary_percent": 0.5, "squared_relu": True}),
    "the configuration says what its class would": (
        BASE | {"model_type": "nemotron", "partial_rotary_factor": 0.25},
        {"rotary_percent": 0.25},
    ),
    "all of a head has positions": (BASE | {"model_type": "llama"}, {"rotary_percent": None, "squared_relu": None}),
    "a mixer a layer, as a pattern": (BASE | MIXERS | {"hybrid_override_pattern": "M-*E"}, {"hybrid_override_pattern": "M-*E"}),
    "a mixer a layer, as a list": (
        BASE | MIXERS | {"layers_block_type": ["mamba", "moe", "attention", "mlp"]},
        {"hybrid_override_pattern": "ME*-", "hybrid_layer_pattern": "ME*-", "squared_relu": True},
    ),
    "layers of attention and a feed-forward block": (BASE | EXPERTS | {"model_type": "qwen3_moe"}, {"hybrid_layer_pattern": None}),
    "as many experts for each layer": (
        BASE | EXPERTS | {"model_type": "hunyuan_v1_moe", "num_experts_per_tok": None, "moe_topk": [3] * 4, "num_shared_expert": [1] * 4},
        {"moe_router_topk": 3},
    ),
    "experts and lengths by names of their own": (DBRX, {"moe_router_topk": 4, "max_position_embeddings": 64, "seq_length": 64}),
    "a sequence that fits": (BASE | {"model_type": "llama", "max_position_embeddings": 131072}, {"seq_length": 4096}),
    "positions that are learned": (
        {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 48, "vocab_size": 32},
        {"max_position_embeddings": 48},
    ),
    "one expert scaled by its score": (
        BASE | {"model_type": "llama4_text", "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 32},
        {"moe_router_score_function": "sigmoid"},
    ),
}


def told(config: dict[str, Any]) -> tuple[Model, Facts]:
    facts = Facts({name: value for name, value in config.items() if value is not None}, "config.json")
    family = find_family(None, facts)
    return family.build(family.flat(facts), Wanted(num_mtp=0)), family.flat(facts)


@pytest.mark.parametrize("case", CASES)
def test_what_megatron_would_take_its_own_default_for_is_said(case: str) -> None:
    config, expected = CASES[case]
    model, facts = told(config)
    args = {**model.family.megatron, **own_args(model, facts)}
    assert {name: args.get(name) for name in expected} == expected


def test_experts_are_grouped_as_the_command_line_says(tmp_path: Path) -> None:
    """load_args_from_checkpoint puts an arg of the checkpoint before the command's: keys and extra states fit either."""
    write_model(MOE, "qwen3-moe", tmp_path / "hf")
    folder = written(tmp_path / "hf", tmp_path / "run")
    args = vars(torch.load(folder / "common.pt", weights_only=False)["args"])
    assert args["moe_grouped_gemm"] is None
    assert (args["num_experts"], args["moe_router_topk"]) == (4, 2)
    assert same(in_safetensors(tmp_path / "hf"), back(tmp_path / "run", tmp_path / "back"))


def test_a_bias_that_no_arg_can_say_is_told(tmp_path: Path) -> None:
    """attention_bias of a Llama is one of the output projection, too; Megatron's add_qkv_bias is not."""
    config = BASE | {"model_type": "llama", "attention_bias": True, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    write_model(config, "llama2", tmp_path / "hf")
    result = run({"format": "huggingface", "path": str(tmp_path / "hf")}, {"format": "megatron", "path": str(tmp_path / "run")})
    assert ["linear_proj.bias" in note.text for note in result.notes if note.kind == "advice"] == [True]
    assert same(in_safetensors(tmp_path / "hf"), back(tmp_path / "run", tmp_path / "back"))
    for quiet in ({"mlp_bias": True}, {"attention_bias": False}):
        assert untold(*told(config | quiet)) == []


UNTOLD = {
    "a gate with GELU": ({"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh"}, "gated_linear_unit"),
    "a gate with another word": ({"model_type": "llama", "hidden_act": "gelu"}, "gated_linear_unit"),
    "LayerNorms without a bias": (
        {"model_type": "mpt", "d_model": 16, "n_heads": 4, "n_layers": 4, "expansion_ratio": 2},
        "layer_norm_bias",
    ),
}


@pytest.mark.parametrize("case", UNTOLD)
@pytest.mark.parametrize("storage", ["torch_dist", "torch", "fsdp_dtensor"])
def test_a_model_that_no_args_can_say_is_told(tmp_path: Path, case: str, storage: str) -> None:
    config, word = UNTOLD[case]
    config = BASE | {"tie_word_embeddings": False} | config
    model, _ = told(config)
    write_model(config, model.family.name, tmp_path / "hf")
    target = {"format": "megatron", "path": str(tmp_path / "run"), "storage": storage}
    result = run({"format": "huggingface", "path": str(tmp_path / "hf")}, target)
    assert [word in note.text for note in result.notes if note.kind == "advice"] == [True]


@pytest.mark.parametrize(("model_type", "act"), [("llama", "silu"), ("stablelm", "silu"), ("gpt_neox", "gelu"), ("starcoder2", "gelu")])
def test_of_others_nothing_is_told(model_type: str, act: str) -> None:
    assert untold(*told(BASE | {"model_type": model_type, "hidden_act": act})) == []
