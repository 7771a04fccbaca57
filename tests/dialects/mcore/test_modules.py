"""A model of several modules: each is spread over the stages in its own way and cut in its own parts; a rank holds the union."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.rank_files import layout
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Facts
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Block
from convsvc.tensors.boxes import Box
from convsvc.tensors.cover import covered_volumes

TOWER, DECODER = "image_encoder", "text_decoder"
SIZES: dict[str, Any] = {
    "hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2, "intermediate_size": 8, "vocab_size": 16,
    "tie_word_embeddings": False,
}  # fmt: skip


def two_modules(tower_layers: int = 4, layers: int = 5) -> Model:
    """A decoder with a tower before it, which is built as a small decoder is."""
    text = FAMILIES["qwen3"].build(Facts({**SIZES, "num_hidden_layers": layers}, "text"))
    tower = FAMILIES["llama2"].build(Facts({**SIZES, "num_hidden_layers": tower_layers, "hidden_size": 12}, "tower"))
    return replace(text, scopes=(*map(in_tower, tower.scopes), *text.scopes))


def in_tower(scope: Scope) -> Scope:
    return replace(scope, module=TOWER, logical=f"{TOWER}.{scope.logical}")


TWO = replace(TABLES, modules={TOWER: replace(TABLES, prefix="image_encoder.", stack="encoder.layers.")})


def cut(tower: Parallel, decoder: Parallel, grid: Parallel) -> Settings:
    return Settings(grid, padded_vocab=16, modules={TOWER: tower, DECODER: decoder})


LISTED = cut(Parallel(tp=2, pp=4, layer_list=(3, 1, 0, 0)), Parallel(tp=4, pp=4, layer_list=(0, 1, 3, 1)), Parallel(tp=4, pp=4))


def held(laid: Layout, file: str) -> dict[str, Block]:
    """A rank file's tensors by their stored names, with their first blocks."""
    return {laid.kinds[entry.kind].name: laid.kinds[entry.kind].blocks[0] for entry in laid.entries if entry.file.endswith(file)}


def test_a_rank_holds_the_union_of_its_modules_parts() -> None:
    laid = layout(two_modules(), LISTED, TWO)
    first, second, last = (held(laid, f"mp_rank_03_{stage:03d}/model_optim_rng.pt") for stage in (0, 1, 3))
    layers = {int(name.split("encoder.layers.")[1].split(".")[0]) for name in first if "image_encoder.encoder.layers." in name}
    assert layers == {0, 1, 2}
    assert not any(name.startswith("model/decoder.") for name in first)
    assert {"model/image_encoder.embedding.word_embeddings.weight"} <= set(first)
    # The tower ends, and the decoder begins, in the second stage.
    assert {"model/image_encoder.encoder.layers.0.mlp.linear_fc1.weight", "model/decoder.layers.0.mlp.linear_fc1.weight"} <= set(second)
    assert {"model/embedding.word_embeddings.weight", "model/image_encoder.output_layer.weight"} <= set(second)
    assert "model/output_layer.weight" in last


def test_a_module_with_fewer_tensor_parts_repeats_them_over_the_ranks() -> None:
    laid = layout(two_modules(), LISTED, TWO)
    weight = "self_attention.linear_qkv.weight"
    tower, decoder = [], []
    for t in range(4):
        first, second = (held(laid, f"mp_rank_{t:02d}_{stage:03d}/model_optim_rng.pt") for stage in (0, 1))
        tower.append(first[f"model/image_encoder.encoder.layers.0.{weight}"])
        decoder.append(second[f"model/decoder.layers.0.{weight}"])
    assert [(block.starts[0], block.stops[0]) for block in tower] == [(0, 2), (2, 4), (0, 2), (2, 4)]
    assert [(block.starts[0], block.stops[0]) for block in decoder] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def whole_boxes(laid: Layout) -> Iterator[tuple[str, bool]]:
    """Whether all of each logical tensor lies somewhere, whatever lies several times."""
    boxes: dict[str, set[Box]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for kind in laid.kinds:
        for block in kind.blocks:
            boxes.setdefault(block.tensor.name, set()).add(block.box)
            sizes[block.tensor.name] = block.tensor.sizes
    for name, found in boxes.items():
        whole = Box(tuple(0 for _ in sizes[name]), sizes[name])
        yield name, covered_volumes([whole], sorted(found)) == [whole.volume]


@pytest.mark.parametrize(
    "settings",
    [
        LISTED,
        cut(Parallel(tp=1, pp=2, layer_list=(4, 0)), Parallel(tp=2, pp=2, layer_list=(2, 3)), Parallel(tp=2, pp=2)),
        cut(
            Parallel(tp=2, pp=2, layers_per_virtual_stage=1),
            Parallel(tp=2, pp=2, layers_per_virtual_stage=1, noop=(0, 2, 3)),
            Parallel(tp=2, pp=2),
        ),
    ],
    ids=["uneven stages", "one part", "chunks"],
)
def test_every_module_is_whole_however_it_is_cut(settings: Settings) -> None:
    layers = 1 if settings.of(DECODER).noop else 5
    laid = layout(two_modules(layers=layers), settings, TWO)
    found = dict(whole_boxes(laid))
    assert {name.partition(".")[0] for name in found} == {TOWER, "decoder", "embedding", "final_layernorm", "output_layer"}
    assert all(found.values())


@pytest.mark.parametrize(
    ("tower", "says"),
    [(Parallel(tp=3, pp=4, layer_list=(4, 0, 0, 0)), "tp 3"), (Parallel(tp=2, pp=2), "pp 2")],
)
def test_modules_that_do_not_fit_into_one_grid_are_refused(tower: Parallel, says: str) -> None:
    with pytest.raises(LayoutError, match=f"{TOWER} is cut with .*{says}.* in a grid of tp 4, pp 4"):
        layout(two_modules(), cut(tower, LISTED.of(DECODER), LISTED.parallel), TWO)


def test_modules_with_different_numbers_of_chunks_are_refused() -> None:
    settings = cut(Parallel(tp=2, pp=2, layers_per_virtual_stage=1), Parallel(tp=2, pp=2, layer_list=(2, 3)), Parallel(tp=2, pp=2))
    with pytest.raises(LayoutError, match="different numbers of chunks"):
        layout(two_modules(), settings, TWO)


def test_a_text_model_is_one_module() -> None:
    model = FAMILIES["qwen3"].build(Facts({**SIZES, "num_hidden_layers": 2}, "text"))
    assert [(module.name, module.num_layers) for module in model.modules] == [(DECODER, 2)]
    assert [(module.name, module.num_layers) for module in two_modules().modules] == [(TOWER, 4), (DECODER, 5)]
