"""GPT-2 and its kin as they were published: without `transformer.`, with buffers of the attention's mask, biases or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convsvc.dialects.huggingface.layout import lay_model
from convsvc.errors import LayoutError
from convsvc.families import Facts, find_family
from convsvc.formats import safetensors
from convsvc.formats.base import TensorSpec
from convsvc.plan.planner import make_plan

GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 8, "n_positions": 6, "vocab_size": 16,
}  # fmt: skip
GPTJ = {**GPT2, "architectures": ["GPTJForCausalLM"], "model_type": "gptj", "rotary_dim": 2, "tie_word_embeddings": False}


def laid(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    facts = Facts(config, "config.json")
    return {each.name: each.shape for each in lay_model(find_family(None, facts).build(facts)).kinds if each.written}


def planned(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], target: str) -> Any:
    skeleton = safetensors.plan_skeleton([TensorSpec(name, "F32", shape) for name, shape in shapes.items()])
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(skeleton.segments[0][1].ljust(skeleton.size_bytes, b"\0"))
    source = {"format": "huggingface", "path": str(folder)}
    return make_plan({"source": source, "target": {"format": target, "path": str(folder / "to")}})


def test_its_matrices_lie_input_before_output() -> None:
    shapes = laid(GPT2)
    assert shapes["transformer.h.1.attn.c_attn.weight"] == (8, 24)
    assert shapes["transformer.h.1.mlp.c_fc.weight"] == (8, 32)
    assert shapes["transformer.h.1.mlp.c_proj.weight"] == (32, 8)
    assert "lm_head.weight" not in shapes


@pytest.mark.parametrize("target", ["huggingface", "mindspeed-llm"])
def test_the_first_gpt2_without_its_beginning_and_with_masks_is_read(target: str, tmp_path: Path) -> None:
    shapes = {name.removeprefix("transformer."): shape for name, shape in laid(GPT2).items()}
    masks = {f"h.{layer}.attn.bias": (1, 1, 6, 6) for layer in (0, 1)}
    assert planned(tmp_path, GPT2, shapes | masks, target).model_type == "gpt2"


def test_gptj_has_biases_in_its_blocks_and_head_alone_and_no_place_in_rank_files(tmp_path: Path) -> None:
    shapes = laid(GPTJ)
    assert {name for name in shapes if name.endswith(".bias") and ".h.1." not in name and ".h.0." not in name} == {
        "transformer.ln_f.bias", "lm_head.bias",
    }  # fmt: skip
    assert not [name for name in shapes if "attn" in name and name.endswith("bias")]
    with pytest.raises(LayoutError, match=r"has no place for .*parallel_layernorm"):
        planned(tmp_path, GPTJ, shapes, "mindspeed-llm")
