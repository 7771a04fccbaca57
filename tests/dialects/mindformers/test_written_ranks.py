"""Rank files that we write hold what our strategy files say, by readers of the tests' own; and they are named as training names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from convsvc.errors import LayoutError
from tests.dialects.mindformers.made import back, make_llama, run, same, whole_tensors
from tests.dialects.mindformers.strategy_by_hand import read_by_hand, slice_by_hand

MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 16, "vocab_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 24, "num_experts": 4,
    "moe_intermediate_size": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip


def write_moe(root: Path) -> None:
    root.mkdir()
    (root / "config.json").write_text(json.dumps(MOE))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (32, 16), "lm_head": (32, 16), "model.norm": (16,)}
    for layer in range(2):
        names = {"q_proj": (24, 16), "k_proj": (12, 16), "v_proj": (12, 16), "o_proj": (16, 24), "q_norm": (6,), "k_norm": (6,)}
        shapes |= {f"model.layers.{layer}.self_attn.{name}": shape for name, shape in names.items()}
        shapes |= {f"model.layers.{layer}.{name}_layernorm": (16,) for name in ("input", "post_attention")}
        shapes[f"model.layers.{layer}.mlp.gate"] = (4, 16)
        for expert in range(4):
            names = {"gate_proj": (8, 16), "up_proj": (8, 16), "down_proj": (16, 8)}
            shapes |= {f"model.layers.{layer}.mlp.experts.{expert}.{name}": shape for name, shape in names.items()}
    save_file({f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}, root / "model.safetensors")


LAYOUTS: dict[str, dict[str, Any]] = {
    "tp 2": {"tensor_parallel_size": 2},
    "dp 2": {"data_parallel_size": 2},
    "tp 2, dp 2, optimizer": {"tensor_parallel_size": 2, "data_parallel_size": 2, "optimizer_weight_shard_size": 2},
    "dp 4, optimizer 2": {"data_parallel_size": 4, "optimizer_weight_shard_size": 2},
    "pp 2, tp 2, dp 2, optimizer": {
        "pipeline_parallel_size": 2, "tensor_parallel_size": 2, "data_parallel_size": 2, "optimizer_weight_shard_size": 2,
    },
    "ep 2": {"data_parallel_size": 2, "expert_parallel_size": 2},
    "ep 2, tp 2": {"data_parallel_size": 2, "expert_parallel_size": 2, "tensor_parallel_size": 2},
    "ep 2, tp 2, dp 4, optimizer": {
        "data_parallel_size": 4, "expert_parallel_size": 2, "tensor_parallel_size": 2, "optimizer_weight_shard_size": 2,
    },
    "ep 2, stacked": {"data_parallel_size": 2, "expert_parallel_size": 2, "stacked_experts": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("moe")
    write_moe(root / "hf")
    return root / "hf"


@pytest.mark.parametrize("once", [False, True], ids=["all", "once"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_ranks_file_holds_the_slices_that_its_strategy_file_says(name: str, once: bool, moe: Path, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    stacked = {"stacked_experts": True} if "stacked_experts" in layout else {}
    source = {"format": "huggingface", "path": str(moe)}
    run(source, {"format": "mindformers", "path": str(tmp_path / "whole"), **stacked})
    run(source, {"format": "mindformers", "path": str(tmp_path / "cut"), "remove_redundancy": once, **layout})
    whole = {key: each.float().numpy() for key, each in whole_tensors(tmp_path / "whole").items()}
    world = layout.get("tensor_parallel_size", 1) * layout.get("data_parallel_size", 1)
    stages = layout.get("pipeline_parallel_size", 1)
    assert {file.name for file in (tmp_path / "cut" / "checkpoint").iterdir()} == {f"rank_{rank}" for rank in range(world * stages)}
    held: dict[tuple[str, bytes], list[int]] = {}
    for rank in range(world * stages):
        stage, layouts = read_by_hand((tmp_path / "cut" / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt").read_bytes())
        assert stage == rank // world
        (file,) = (tmp_path / "cut" / "checkpoint" / f"rank_{rank}").iterdir()
        assert file.name == f"qwen3-moe_rank_{rank}-1_1.safetensors"
        with safe_open(file, "pt") as tensors:
            assert tensors.metadata() == {"format": "ms", "remove_redundancy": str(once)}
            names = set(tensors.keys())
            assert names <= set(layouts) if once else names == set(layouts)
            for each in names:
                want = slice_by_hand(layouts[each], rank % world, whole[each])
                assert np.array_equal(tensors.get_tensor(each).float().numpy(), want), (rank, each)
                held.setdefault((each, want.tobytes()), []).append(rank)
    # All that is somewhere makes the whole; redundant tensors are on one rank each.
    assert {each for each, _ in held} == set(whole)
    if once:
        assert all(len(ranks) == 1 for (each, _), ranks in held.items() if whole[each].size > 16)


def test_they_come_back_without_any_word_of_how_they_were_cut(moe: Path, tmp_path: Path) -> None:
    layout = {**LAYOUTS["ep 2, tp 2, dp 4, optimizer"], "pipeline_parallel_size": 2, "remove_redundancy": True}
    run({"format": "huggingface", "path": str(moe)}, {"format": "mindformers", "path": str(tmp_path / "cut"), **layout})
    assert same(whole_tensors(moe), back(tmp_path / "cut", tmp_path / "out")[0])


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"tensor_parallel_size": 4}, "tensor_parallel_size 4 does not divide the 2 of axis group"),
        ({"data_parallel_size": 2, "expert_parallel_size": 2}, "does not divide the 0 experts"),
        ({"data_parallel_size": 3, "optimizer_weight_shard_size": 2}, "optimizer_weight_shard_size 2 does not divide"),
        ({"remove_redundancy": True}, "cut over ranks"),
        ({"tensor_parallel_size": 1000, "data_parallel_size": 1000}, "more than 100000 ranks"),
        ({"pipeline_parallel_size": 3}, "3"),
    ],
)
def test_sizes_that_no_checkpoint_of_the_model_can_have_are_refused(sizes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=says):
        make_llama(tmp_path, **sizes)
