"""Gemma 3 with pictures: told from its text alone, read under both names of its tower, with or without SigLIP's head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.families import Facts, Wanted, find_family
from tests.dialects.dcp.made import in_safetensors

VISION: dict[str, Any] = {
    "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 20, "patch_size": 5,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "model_type": "gemma3_text", "hidden_size": 16, "intermediate_size": 28, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 6, "num_hidden_layers": 2, "vocab_size": 30,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": TEXT,
    "vision_config": VISION | {"vision_use_head": False},
}  # fmt: skip
PUBLISHED, NEW = "vision_tower.vision_model.", "vision_tower."


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a model, as they are published."""
    facts = Facts(config, "config.json")
    model = find_family(None, facts).build(facts, Wanted(num_mtp=0))
    return {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}


def write(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    folder.mkdir()
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in shapes(config).items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def there_and_back(folder: Path, target: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What comes back of `hf`, from `there`."""
    there, hf = str(folder / "there"), str(folder / "hf")
    convert({"source": {"format": "huggingface", "path": hf}, "target": {**target, "path": there}}, engine="inline")
    source = {"format": target["format"], "path": there} | ({"config_dir": hf} if target["format"] == "dcp" else {})
    convert({"source": source, "target": {"format": "huggingface", "path": str(folder / "back")}}, engine="inline")
    return in_safetensors(folder / "back")


def test_the_configuration_shows_it_and_that_of_the_text_does_not() -> None:
    assert find_family(None, Facts(CONFIG, "config.json")).name == "gemma3-vl"
    assert find_family(None, Facts({**TEXT, "architectures": ["Gemma3ForCausalLM"]}, "config.json")).name == "gemma3"


def test_its_tensors_are_those_of_the_published_model() -> None:
    """Names and how shapes follow from sizes: google/gemma-3-4b-it, model.safetensors.index.json and headers."""
    there = shapes(CONFIG)
    assert there["multi_modal_projector.mm_input_projection_weight"] == (12, 16)
    assert there[PUBLISHED + "embeddings.position_embedding.weight"] == (16, 12)
    assert there[PUBLISHED + "encoder.layers.1.mlp.fc1.weight"] == (20, 12)
    assert there["language_model.model.layers.1.self_attn.q_proj.weight"] == (24, 16)
    assert not [name for name in there if ".head." in name or name.startswith("lm_head")]


def test_without_a_word_the_tower_has_siglips_head() -> None:
    head = [name for name in shapes({**CONFIG, "vision_config": VISION}) if name.startswith(PUBLISHED + "head.")]
    assert len(head) == 11


@pytest.mark.parametrize("vision", [{"vision_use_head": False}, {}], ids=["as published", "with the head"])
def test_names_that_transformers_5_writes_are_read(vision: dict[str, Any], tmp_path: Path) -> None:
    """They differ in the tower alone, whose names are the first to be asked: the text's are the same."""
    tensors = write(tmp_path / "hf", {**CONFIG, "vision_config": VISION | vision})
    save_file({name.replace(PUBLISHED, NEW): tensor for name, tensor in tensors.items()}, tmp_path / "hf" / "model.safetensors")
    back = there_and_back(tmp_path, {"format": "dcp"})
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_its_text_alone_goes_to_rank_files(tmp_path: Path) -> None:
    write(tmp_path / "hf", CONFIG)
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks"), "tensor_parallel_size": 2}
    convert({"source": source, "target": target}, engine="inline")
    assert len(list((tmp_path / "ranks").glob("*/mp_rank_*/model_optim_rng.pt"))) == 2
