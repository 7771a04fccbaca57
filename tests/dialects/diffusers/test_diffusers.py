"""Diffusion models as they are published: forms by names, sizes by shapes, files by their index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError
from convsvc.plan.inspect import inspect_checkpoint

LAYERS, HIDDEN, FFN, TEXT, TIME = 3, 8, 12, 10, 4


def wan(layers: int = LAYERS) -> dict[str, torch.Tensor]:
    """A tiny Wan by its authors' names, every tensor another one."""
    generator = torch.Generator().manual_seed(7)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (HIDDEN, 4, 1, 2, 2),
        "patch_embedding.bias": (HIDDEN,),
        "head.modulation": (1, 2, HIDDEN),
    }
    pairs = {
        "text_embedding.0": (HIDDEN, TEXT),
        "text_embedding.2": (HIDDEN, HIDDEN),
        "time_embedding.0": (HIDDEN, TIME),
        "time_embedding.2": (HIDDEN, HIDDEN),
        "time_projection.1": (6 * HIDDEN, HIDDEN),
        "head.head": (16, HIDDEN),
    }
    for layer in range(layers):
        block = f"blocks.{layer}."
        shapes[block + "modulation"] = (1, 6, HIDDEN)
        pairs |= {f"{block}{kind}_attn.{each}": (HIDDEN, HIDDEN) for kind in ("self", "cross") for each in "qkvo"}
        pairs |= {f"{block}ffn.0": (FFN, HIDDEN), f"{block}ffn.2": (HIDDEN, FFN)}
        shapes |= {f"{block}{kind}_attn.norm_{each}.weight": (HIDDEN,) for kind in ("self", "cross") for each in "qk"}
        shapes |= {f"{block}norm3.weight": (HIDDEN,), f"{block}norm3.bias": (HIDDEN,)}
    for name, shape in pairs.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(source: Path, target: Path, options: dict[str, Any] | None = None, **said: Any) -> Any:
    asked = {"source": {"format": "diffusers", "path": str(source)}, "target": {"format": "diffusers", "path": str(target), **said}}
    return convert({**asked, "options": options or {}}, engine="inline")


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_form_shows_by_the_names_and_the_other_form_holds_the_same(tmp_path: Path) -> None:
    tensors = wan()
    run(write(tmp_path / "in", tensors, {"num_layers": LAYERS}), tmp_path / "diffusers", form="hf_diffusers")
    index = json.loads((tmp_path / "diffusers" / "diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    file = tmp_path / "diffusers" / index["blocks.2.attn1.to_out.0.weight"]
    assert torch.equal(load_file(file)["blocks.2.attn1.to_out.0.weight"], tensors["blocks.2.self_attn.o.weight"])
    assert (tmp_path / "diffusers" / "config.json").is_file()
    run(tmp_path / "diffusers", tmp_path / "back", {"max_shard_size": "1GB"}, form="original")
    assert same(load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors"), tensors)


@pytest.mark.parametrize("name", ["wan.safetensors", "wan.pt", "wan.pth"])
def test_one_file_is_written_and_read_by_its_path(name: str, tmp_path: Path) -> None:
    tensors = wan()
    run(write(tmp_path / "in", tensors), tmp_path / "out", form="original", file_name=name)
    file = tmp_path / "out" / name
    assert same(load_file(file) if name.endswith("safetensors") else torch.load(file, weights_only=True), tensors)
    run(file, tmp_path / "back", {"max_shard_size": "1GB"}, form="original")
    assert same(load_file(tmp_path / "back" / "diffusion_pytorch_model.safetensors"), tensors)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "module."])
def test_what_a_wrapper_puts_before_all_names_is_left_away(prefix: str, tmp_path: Path) -> None:
    tensors = wan()
    run(
        write(tmp_path / "in", {prefix + name: each for name, each in tensors.items()}), tmp_path / "out", form="original", file_name="a.pt"
    )
    assert same(torch.load(tmp_path / "out" / "a.pt", weights_only=True), tensors)


def test_a_layer_that_is_missing_is_named(tmp_path: Path) -> None:
    tensors = {name: each for name, each in wan().items() if not name.startswith("blocks.1.")}
    with pytest.raises(ConvsvcError, match=r"layer\(s\) 1 of the blocks are missing, of 3"):
        run(write(tmp_path / "in", tensors), tmp_path / "out")


def test_a_configuration_of_more_layers_is_contradicted(tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError, match="has other layers than its configuration says") as error:
        run(write(tmp_path / "in", wan(), {"num_layers": 4}), tmp_path / "out")
    assert "says num_layers 4" in error.value.facts[0]


@pytest.mark.parametrize("lost", ["blocks.2.self_attn.q.weight", "head.modulation"])
def test_a_tensor_that_is_missing_is_named(lost: str, tmp_path: Path) -> None:
    tensors = wan()
    del tensors[lost]
    with pytest.raises(ConvsvcError) as error:
        run(write(tmp_path / "in", tensors), tmp_path / "out")
    assert any(lost in fact for fact in error.value.facts)


def test_a_tensor_that_nobody_knows_is_no_weight_to_lose(tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError) as error:
        run(write(tmp_path / "in", wan() | {"blocks.0.extra.weight": torch.zeros(2)}), tmp_path / "out")
    assert any("blocks.0.extra.weight" in fact for fact in error.value.facts)


def test_shapes_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError, match="do not fit together") as error:
        run(write(tmp_path / "in", wan() | {"blocks.1.ffn.0.weight": torch.zeros(FFN + 1, HIDDEN).bfloat16()}), tmp_path / "out")
    assert "blocks.1.ffn.0.weight, dimension 0" in error.value.facts[0]


def test_other_tensors_are_no_diffusion_model(tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError, match="known model family"):
        run(write(tmp_path / "in", {"a.weight": torch.zeros(2)}, {}), tmp_path / "out")


def test_a_form_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError, match="wan has the forms hf_diffusers, original"):
        run(write(tmp_path / "in", wan()), tmp_path / "out", form="comfy")


def test_inspect_says_what_lies_there(tmp_path: Path) -> None:
    about = inspect_checkpoint(str(write(tmp_path / "in", wan())))
    assert (about["format"], about["model_type"], about["complete"]) == ("diffusers", "wan", True)
    assert about["sizes"]["ffn"] == FFN
