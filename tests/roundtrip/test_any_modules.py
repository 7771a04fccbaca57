"""Models of several modules through layouts that are drawn, and back: bit for bit, whatever is empty, uneven, virtual or repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.golden.mindspeed_mm_corpus import draw, fixture

# Their sizes are no published model's, and one has no class.
pytestmark = pytest.mark.not_for_transformers


@dataclass(frozen=True, slots=True)
class Drawable:
    """A fixture: its layers by a field's beginning, and the sizes that may be drawn."""

    fixture: str
    layers: dict[str, int]
    tp: tuple[int, ...]
    tower_tp: tuple[int, ...]
    ep: tuple[int, ...] = (1,)


MODELS = (
    Drawable("qwen2vl", {"llm": 4, "vit": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("qwen2_5vl_tie", {"llm": 4, "vit": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("qwen2_5omni", {"llm": 4, "vit": 3, "audio": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("qwen3vl", {"llm": 4, "vit": 4}, (1, 2, 4), (1, 2, 4)),
    Drawable("qwen3vl_moe", {"llm": 4, "vit": 4}, (1, 2, 4), (1, 2, 4), (1, 2, 4)),
    Drawable("internvl_qwen2", {"llm": 4, "vit": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("internvl_internlm2", {"llm": 4, "vit": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("internvl_llama", {"llm": 4, "vit": 3}, (1, 2, 4), (1, 2, 4)),
    Drawable("glm4_1v", {"llm": 4, "vit": 3}, (1,), (1,)),
    Drawable("deepseekvl2", {"llm": 4, "vit": 3}, (1, 2, 4), (1,), (1, 2)),
    Drawable("videoalign_plain", {"llm": 3, "vit": 2}, (1, 2, 4), (1, 2, 4)),
)
CANONICAL = {"qwen2vl", "qwen2_5vl_tie", "videoalign_plain"}


@st.composite
def layouts(draw_one: st.DrawFn, model: Drawable) -> dict[str, Any]:
    """What a job may say: any table of counts that add up, each module's own sizes."""
    stages, chunks = draw_one(st.integers(1, 3)), draw_one(st.integers(1, 2))
    said: dict[str, Any] = {"tp_size": draw_one(st.sampled_from(model.tp)), "ep_size": draw_one(st.sampled_from(model.ep))}
    for module, layers in model.layers.items():
        rows, columns = (chunks, stages) if module == "llm" else (draw_one(st.sampled_from((1, chunks))), draw_one(st.integers(1, stages)))
        said[f"{module}_pp_layers"] = table(draw_one, layers, rows, columns)
        if module != "llm":
            said[f"{module}_tp_size"] = draw_one(st.sampled_from((0, *model.tower_tp)))
    said["ldt"] = draw_one(st.booleans())
    said["enable_canonical_hf_struct"] = model.fixture in CANONICAL and draw_one(st.booleans())
    return said


def table(draw_one: st.DrawFn, layers: int, rows: int, columns: int) -> list[list[int]]:
    """Counts of layers that add up, with cells that are empty anywhere."""
    cells = [0] * (rows * columns)
    for at in draw_one(st.lists(st.integers(0, len(cells) - 1), min_size=layers, max_size=layers)):
        cells[at] += 1
    return [cells[row * columns : (row + 1) * columns] for row in range(rows)]


def write(name: str, folder: Path) -> dict[str, torch.Tensor]:
    made = fixture(name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(made["config"]))
    tensors = {each: draw(7, each, *shape) for each, shape in made["tensors"].items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return tensors


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.fixture)
def test_there_through_two_layouts_and_back_is_the_identity(model: Drawable, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp(model.fixture)
    tensors = write(model.fixture, base / "hf")

    @settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(there=layouts(model), again=layouts(model))
    def converts(there: dict[str, Any], again: dict[str, Any]) -> None:
        folder = tmp_path_factory.mktemp("drawn")
        words = {"config_dir": str(base / "hf")}
        ranks = [{"format": "mindspeed-mm", "path": str(folder / name)} for name in ("first", "second")]
        convert({"source": {"format": "huggingface", "path": str(base / "hf")}, "target": ranks[0] | there})
        convert({"source": ranks[0] | words, "target": ranks[1] | again})
        convert({"source": ranks[1] | words, "target": {"format": "huggingface", "path": str(folder / "back")}})
        back = {name: each for file in (folder / "back").glob("*.safetensors") for name, each in load_file(file).items()}
        assert back.keys() == tensors.keys()
        assert [name for name, each in tensors.items() if not torch.equal(back[name], each)] == []

    converts()
