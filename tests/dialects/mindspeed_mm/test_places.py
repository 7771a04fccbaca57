"""Rank files that are not as they should be are named, with what is there instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError
from tests.roundtrip.test_any_modules import write


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model beside its rank files over two tensor ranks and two stages."""
    folder = tmp_path_factory.mktemp("ranks")
    write("qwen2vl", folder / "hf")
    target = {"format": "mindspeed-mm", "path": str(folder / "mm"), "tp_size": 2, "llm_pp_layers": [2, 2]}
    convert({"source": {"format": "huggingface", "path": str(folder / "hf")}, "target": target}, engine="inline")
    return folder


def refused(folder: Path, out: Path, **stated: Any) -> str:
    source = {"format": "mindspeed-mm", "path": str(folder / "mm"), "config_dir": str(folder / "hf"), **stated}
    with pytest.raises(ConvsvcError) as caught:
        convert({"source": source, "target": {"format": "huggingface", "path": str(out)}}, engine="inline")
    assert not out.exists()
    return caught.value.one_line()


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"tp_size": 4}, "tp_size, as that of the image_encoder: stated 4; its shapes fit 2 of the 2 tensor ranks"),
        ({"tp_size": 2, "vit_tp_size": 1}, "vit_tp_size: stated 1; its shapes fit 2 of the 2 tensor ranks"),
    ],
)
def test_a_size_is_contradicted_by_the_name_that_it_was_given(ranks: Path, tmp_path: Path, stated: dict[str, Any], says: str) -> None:
    assert says in refused(ranks, tmp_path / "out", **stated)


def test_iterations_without_a_tracker_are_named(ranks: Path, tmp_path: Path) -> None:
    tracker = ranks / "mm" / "latest_checkpointed_iteration.txt"
    text = tracker.read_text()
    tracker.unlink()
    try:
        said = refused(ranks, tmp_path / "out")
    finally:
        tracker.write_text(text)
    assert "has release, and no latest_checkpointed_iteration.txt that says which of them is meant" in said
    assert "source.iteration" in said
