"""Every diffusion model that goes to rank files, through cuts that are drawn and back: the same tensors, bit for bit.

Fixtures have as many layers as MindSpeed-MM's tables; a few of each stack say as much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.golden.mindspeed_mm_corpus import draw, fixture

pytestmark = pytest.mark.not_for_transformers
LAYERS = 4


@dataclass(frozen=True, slots=True)
class Drawable:
    """A fixture, the form that it is published in, what training of it can be cut into: tensor ranks, stages, virtual ones."""

    fixture: str
    form: str
    model: str
    tp: tuple[int, ...] = (1,)
    stages: int = 1
    chunks: int = 1


MODELS = (
    Drawable("wan_t2v", "hf_diffusers", "wan", stages=3, chunks=2),
    Drawable("wan_i2v", "hf_diffusers", "wan", stages=3, chunks=2),
    Drawable("wan_lora", "original", "wan-lora", stages=3, chunks=2),
    Drawable("vace_diffusers", "hf_diffusers", "vace"),
    Drawable("vace_civitai", "original", "vace"),
    Drawable("cogvideo_hf", "hf_diffusers", "cogvideo", tp=(1, 2), stages=3),
    Drawable("opensoraplan_v1_3", "original", "opensora-plan-v1.3", tp=(1, 2, 4), stages=3, chunks=2),
    Drawable("opensoraplan_v1_3", "original", "opensora-plan-v1.2", tp=(1, 2, 4)),
    Drawable("hunyuanvideo", "original", "hunyuan-video", tp=(1, 2)),
    Drawable("stepvideo", "original", "stepvideo", tp=(1, 2, 4), stages=3),
    Drawable("lumina", "original", "lumina"),
    Drawable("bagel", "original", "bagel"),
    Drawable("opensora", "original", "opensora"),
)


@st.composite
def cuts(draw_one: st.DrawFn, model: Drawable) -> dict[str, Any]:
    """What a job may say: ranks, and layers in stages and chunks, some of them none."""
    stages, chunks = draw_one(st.integers(1, model.stages)), draw_one(st.integers(1, model.chunks))
    said: dict[str, Any] = {"tp_size": draw_one(st.sampled_from(model.tp))}
    if model.stages == 1:
        return said
    cells = [0] * (stages * chunks)
    for at in draw_one(st.lists(st.integers(0, len(cells) - 1), min_size=LAYERS, max_size=LAYERS)):
        cells[at] += 1
    table = [cells[chunk * stages : (chunk + 1) * stages] for chunk in range(chunks)]
    return said | {"pp_layers": table if chunks > 1 else table[0]}


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    """The fixture's, of each stack the first layers."""
    late = re.compile(r"(?:^|\.)\w*(?:blocks|layers)\.(\d+)\.")
    made = fixture(name)["tensors"]
    return {each: draw(7, each, *said) for each, said in made.items() if not ((at := late.search(each)) and int(at[1]) >= LAYERS)}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.model}-{model.fixture}")
def test_there_through_two_cuts_and_back_is_the_identity(model: Drawable, tmp_path_factory: pytest.TempPathFactory) -> None:
    tensors = tensors_of(model.fixture)
    base = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file(tensors, base)

    @settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(there=cuts(model), again=cuts(model))
    def converts(there: dict[str, Any], again: dict[str, Any]) -> None:
        folder = tmp_path_factory.mktemp("drawn")
        places: list[dict[str, Any]] = [{"format": "diffusers", "path": str(base)}]
        places += [{"format": "mindspeed-mm-sora", "path": str(folder / f"cut{at}"), **each} for at, each in enumerate((there, again))]
        places.append({"format": "diffusers", "path": str(folder / "out"), "form": model.form, "file_name": "back.safetensors"})
        for source, target in pairwise(places):
            convert({"model_type": model.model, "source": source, "target": target}, engine="inline")
        back = load_file(folder / "out" / "back.safetensors")
        assert back.keys() == tensors.keys()
        assert [name for name, each in tensors.items() if not torch.equal(back[name], each)] == []

    converts()
