"""Chunks that overlap: what two of them hold is read once and compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convsvc.conversion import convert
from convsvc.dialects.overlaps import MOST_CELLS, count_cells, find_seams
from convsvc.errors import ConvsvcError, SourceError
from convsvc.plan.planner import make_plan
from convsvc.tensors.boxes import Box
from tests.dialects.dcp.made import Piece, back, in_safetensors, same, write_dcp
from tests.dialects.megatron.test_megatron import back as from_megatron
from tests.dialects.megatron.test_megatron import saved_again, written
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
Cutting = Callable[[str, tuple[int, ...]], list[Piece]]


def rows(name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Two chunks that share two rows, or what there is of them."""
    middle = shape[0] // 2
    ends = ((0, min(middle + 1, shape[0])), (max(middle - 1, 0), shape[0]))
    return [(f"__{number}_0.distcp", (a, *(0,) * (len(shape) - 1)), (b, *shape[1:])) for number, (a, b) in enumerate(ends)]


def corners(name: str, shape: tuple[int, ...]) -> list[Piece]:
    """Boxes from each side of every dimension that reach beyond its middle, so that all of them share the middle."""
    pieces: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for size in shape:
        sides = {(0, min(size, size // 2 + 1)), (max(0, size // 2 - 1), size)}
        pieces = [((*starts, a), (*stops, b)) for starts, stops in pieces for a, b in sorted(sides)]
    return [(f"__{number % 3}_0.distcp", starts, stops) for number, (starts, stops) in enumerate(pieces)]


@pytest.fixture
def llama(tmp_path: Path) -> tuple[Path, Tensors]:
    write_llama(tmp_path / "hf")
    return tmp_path / "hf", in_safetensors(tmp_path / "hf")


def saved(folder: Path, llama: tuple[Path, Tensors], cut: Cutting, change: Callable[[Tensors], Tensors] = dict) -> Path:
    write_dcp(folder, change(llama[1]), cut)
    shutil.copy(llama[0] / "config.json", folder / "config.json")
    return folder


@pytest.mark.parametrize("cut", [rows, corners])
def test_chunks_that_overlap_are_read_once(tmp_path: Path, llama: tuple[Path, Tensors], cut: Cutting) -> None:
    saved(tmp_path / "dcp", llama, cut)
    assert same(llama[1], back(tmp_path / "dcp", tmp_path / "back")[0])


@pytest.mark.parametrize("cut", [rows, corners])
@pytest.mark.parametrize("layer_keys", ["stacked", "per-layer"])
def test_megatrons_keys_may_be_cut_so_through_groups_of_heads(
    tmp_path: Path, llama: tuple[Path, Tensors], cut: Cutting, layer_keys: str
) -> None:
    folder = written(llama[0], tmp_path / "megatron", layer_keys=layer_keys)
    assert same(llama[1], from_megatron(saved_again(folder, tmp_path / "again", cut), tmp_path / "back"))


def with_another_row(tensors: Tensors) -> Tensors:
    """One element differs, in a row that both chunks of `rows` hold."""
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["lm_head.weight"][changed["lm_head.weight"].shape[0] // 2, 0] += 1
    return changed


def test_what_two_chunks_hold_must_be_the_same(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    """The second file is of another saving, and has the very same layout."""
    saved(tmp_path / "dcp", llama, rows)
    saved(tmp_path / "other", llama, rows, with_another_row)
    shutil.copy(tmp_path / "other" / "__1_0.distcp", tmp_path / "dcp" / "__1_0.distcp")
    with pytest.raises(ConvsvcError, match=r"lm_head\.weight") as raised:
        convert(
            {
                "source": {"format": "dcp", "path": str(tmp_path / "dcp")},
                "target": {"format": "huggingface", "path": str(tmp_path / "back")},
            },
            engine="inline",
        )
    assert "__0_0.distcp" in str(raised.value)
    assert "__1_0.distcp" in str(raised.value)


def test_a_gap_between_chunks_that_overlap_elsewhere_is_named(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    def cut(name: str, shape: tuple[int, ...]) -> list[Piece]:
        first, (file, starts, stops) = rows(name, shape)
        return [first, (file, starts, (stops[0] - 1, *stops[1:]))] if name == "lm_head.weight" else [first, (file, starts, stops)]

    saved(tmp_path / "dcp", llama, cut)
    with pytest.raises(SourceError, match=r"lm_head\.weight \[63:64, 0:16\] of \[64, 16\]: no chunk holds it"):
        back(tmp_path / "dcp", tmp_path / "back")


def test_so_many_overlaps_that_nobody_saved_them_are_an_error(tmp_path: Path, llama: tuple[Path, Tensors]) -> None:
    """Of 64 rows every chunk begins at another one and reaches to the end, and so for columns."""

    def cut(name: str, shape: tuple[int, ...]) -> list[Piece]:
        if name != "lm_head.weight":
            return rows(name, shape)
        return [(f"__{a}_{b}.distcp", (a, b), shape) for a in range(0, shape[0], 2) for b in range(0, shape[1], 2)]

    saved(tmp_path / "dcp", llama, cut)
    with pytest.raises(SourceError, match="overlap, and so many others that they are not compared"):
        make_plan(
            {
                "source": {"format": "dcp", "path": str(tmp_path / "dcp")},
                "target": {"format": "huggingface", "path": str(tmp_path / "back")},
            }
        )


def test_counting_ends_soon() -> None:
    boxes = [Box((at,), (10**6,)) for at in range(10**4)]
    assert MOST_CELLS < count_cells(boxes, find_seams(boxes)) < 3 * MOST_CELLS + len(boxes)
