"""Adapters of Qwen2.5-VL by themselves through any two cuts and back: the same tensors, wherever stages are empty, under either's names."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError

PEFT, RANK, TEXT, TOWER = "base_model.model.", 2, 4, 3
# Outputs and inputs; every size but the ranks' a length of its own.
MATRICES = {
    "self_attn.q_proj": (16, 20), "self_attn.k_proj": (8, 20), "self_attn.v_proj": (8, 20), "self_attn.o_proj": (20, 16),
    "mlp.gate_proj": (24, 20), "mlp.up_proj": (24, 20), "mlp.down_proj": (20, 24),
}  # fmt: skip
SEEN = {"attn.qkv": (36, 12), "attn.proj": (12, 12), "mlp.gate_proj": (28, 12), "mlp.up_proj": (28, 12), "mlp.down_proj": (12, 28)}
PROJECTOR = {"mlp.0": (48, 48), "mlp.2": (20, 48)}
BODIES = {"original": ("model.layers", "visual.blocks"), "language_model": ("model.language_model.layers", "model.visual.blocks")}


def adapters(form: str, tower: bool, prefix: str = PEFT) -> dict[str, torch.Tensor]:
    """A and B of every matrix, as PEFT saves them."""
    generator = torch.Generator().manual_seed(7)
    text, vision = BODIES[form]
    tensors = {}
    for body, count, matrices in ((text, TEXT, MATRICES), (vision, TOWER if tower else 0, SEEN)):
        for layer in range(count):
            for name, (rows, columns) in matrices.items():
                module = f"{prefix}{body}.{layer}.{name}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
                tensors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    merger = vision.removesuffix("blocks") + "merger."
    for name, (rows, columns) in PROJECTOR.items() if tower else ():
        tensors[f"{prefix}{merger}{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
        tensors[f"{prefix}{merger}{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    return tensors


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """Tensor ranks, and layers of both parts in as many stages and chunks, some of them none."""
    stages, chunks = draw(st.integers(1, 3)), draw(st.integers(1, 2))

    def table(layers: int) -> list[list[int]]:
        at = sorted(draw(st.lists(st.integers(0, layers), min_size=stages * chunks - 1, max_size=stages * chunks - 1)))
        counts = [stop - start for start, stop in zip([0, *at], [*at, layers], strict=True)]
        return [counts[chunk * stages : (chunk + 1) * stages] for chunk in range(chunks)]

    return {"tp_size": draw(st.sampled_from([1, 2, 4])), "pp_layers": table(TEXT), "vit_pp_layers": table(TOWER)}


def ranks(path: Path, **cut: Any) -> dict[str, Any]:
    return {"format": "mindspeed-mm-sora", "path": str(path), **cut}


@given(first=cuts(), second=cuts(), form=st.sampled_from(list(BODIES)), tower=st.booleans())
@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
def test_any_cut_holds_all_adapters(first: dict[str, Any], second: dict[str, Any], form: str, tower: bool) -> None:
    tensors = adapters(form, tower)
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_file(tensors, folder / "adapter_model.safetensors")
        places: list[dict[str, Any]] = [{"format": "diffusers", "path": str(folder / "adapter_model.safetensors")}]
        places += [ranks(folder / f"cut{at}", **each) for at, each in enumerate((first, second))]
        places.append({"format": "diffusers", "path": str(folder / "out"), "form": form, "before_names": PEFT})
        for source, target in pairwise(places):
            convert(
                {"model_type": "qwen2.5-vl-lora", "source": source, "target": target, "options": {"max_shard_size": "1GB"}}, engine="inline"
            )
        back = load_file(folder / "out" / "adapter_model.safetensors")
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[each], tensors[each]) for each in tensors)


def test_each_side_is_cut_as_its_matrix_is(tmp_path: Path) -> None:
    tensors = adapters("original", True, prefix="")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    source = {"format": "diffusers", "path": str(tmp_path / "adapter_model.safetensors")}
    convert({"source": source, "target": ranks(tmp_path / "cut", tp_size=2, pp_layers=[3, 1], vit_pp_layers=[0, 3])}, engine="inline")
    model = torch.load(tmp_path / "cut" / "release" / "mp_rank_01_001" / "model_optim_rng.pt", weights_only=True)["model"]
    text, seen = "text_decoder.decoder.layers.0.", "image_encoder.encoder.blocks.layers.2."
    assert torch.equal(
        model[text + "self_attention.q_proj.lora_B.default.weight"], tensors["model.layers.3.self_attn.q_proj.lora_B.weight"][8:]
    )
    assert torch.equal(
        model[text + "self_attention.q_proj.lora_A.default.weight"], tensors["model.layers.3.self_attn.q_proj.lora_A.weight"]
    )
    assert torch.equal(model[text + "mlp.linear_fc2.lora_A.default.weight"], tensors["model.layers.3.mlp.down_proj.lora_A.weight"][:, 12:])
    assert torch.equal(
        model[seen + "self_attention.linear_qkv.lora_B.default.weight"], tensors["visual.blocks.2.attn.qkv.lora_B.weight"][18:]
    )


def test_adapters_of_the_projector_lie_with_the_towers_last_layer_and_are_cut_as_its_matrices_are(tmp_path: Path) -> None:
    tensors = adapters("original", True, prefix="")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    source = {"format": "diffusers", "path": str(tmp_path / "adapter_model.safetensors")}
    cut = {"tp_size": 2, "pp_layers": [1, 2, 1], "vit_pp_layers": [1, 2, 0]}
    convert({"source": source, "target": ranks(tmp_path / "cut", **cut)}, engine="inline")
    projector = "image_encoder.projector.encoder."
    for stage in range(3):
        file = tmp_path / "cut" / "release" / f"mp_rank_01_{stage:03d}" / "model_optim_rng.pt"
        model = torch.load(file, weights_only=True)["model"]
        assert any(name.startswith(projector) for name in model) == (stage == 1)
        if stage == 1:
            first, second = tensors["visual.merger.mlp.0.lora_B.weight"], tensors["visual.merger.mlp.2.lora_A.weight"]
            assert torch.equal(model[f"{projector}linear_fc1.lora_B.default.weight"], first[24:])
            assert torch.equal(model[f"{projector}linear_fc2.lora_A.default.weight"], second[:, 24:])


def test_a_projectors_stage_is_not_guessed_where_no_layer_of_the_tower_has_adapters(tmp_path: Path) -> None:
    tensors = {name: each for name, each in adapters("original", True).items() if ".blocks." not in name}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    source = {"format": "diffusers", "path": str(tmp_path / "adapter_model.safetensors")}
    job = {"model_type": "qwen2.5-vl-lora", "source": source}
    with pytest.raises(ConvsvcError, match="its stage is not to be seen"):
        convert({**job, "target": ranks(tmp_path / "cut", pp_layers=[2, 2])}, engine="inline")
    convert({**job, "target": ranks(tmp_path / "one")}, engine="inline")


WRONG = {
    "layers that do not add up": ({"pp_layers": [2, 1], "vit_pp_layers": [3, 0]}, "pp_layers has 3 layers; the model has 4"),
    "a tower that does not add up": ({"pp_layers": [2, 2], "vit_pp_layers": [1, 1]}, "vit_pp_layers has 2 layers; the model has 3"),
    "a tower of other stages": ({"pp_layers": [2, 2], "vit_pp_layers": [3]}, "vit_pp_layers"),
    "ranks that divide no axis": ({"tp_size": 3}, "tp_size 3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_cut_that_loses_something_is_refused(kind: str, tmp_path: Path) -> None:
    cut, words = WRONG[kind]
    save_file(adapters("original", True), tmp_path / "adapter_model.safetensors")
    source = {"format": "diffusers", "path": str(tmp_path / "adapter_model.safetensors")}
    with pytest.raises(ConvsvcError, match=words):
        convert({"source": source, "target": ranks(tmp_path / "cut", **cut)}, engine="inline")


def test_an_adapter_of_a_matrix_that_has_no_place_is_not_dropped(tmp_path: Path) -> None:
    tensors = adapters("original", True) | {f"{PEFT}visual.patch_embed.proj.lora_A.weight": torch.ones(RANK, 5)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    source = {"format": "diffusers", "path": str(tmp_path / "adapter_model.safetensors")}
    with pytest.raises(ConvsvcError, match=r"visual\.patch_embed\.proj"):
        convert({"model_type": "qwen2.5-vl-lora", "source": source, "target": ranks(tmp_path / "cut")}, engine="inline")
