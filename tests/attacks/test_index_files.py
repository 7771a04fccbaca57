"""A model.safetensors.index.json that is a bomb, or sends its reader elsewhere.

What stops it: it is JSON of bounded size; its files are plain names in its own directory, each opened once; index and files must agree.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from convsvc.dialects import source_of
from convsvc.dialects.huggingface.job import HuggingFaceSource
from convsvc.errors import ConvsvcError, SourceError
from convsvc.roots import ANYWHERE

FILE = "model-1.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / FILE)
    return tmp_path


def opened(checkpoint: Path, index: Any) -> Any:
    text = index if isinstance(index, str) else json.dumps(index)
    (checkpoint / "model.safetensors.index.json").write_text(text, "utf-8", "surrogatepass")
    began = time.process_time()
    try:
        return source_of("huggingface").open(HuggingFaceSource(format="huggingface", path=str(checkpoint)), ANYWHERE)
    finally:
        assert time.process_time() - began < 10


NAMES = ("../model.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\x00b", "\ud800", "x" * 300, "x" * 5000, "config.json", "missing")
NO_MAPS: tuple[Any, ...] = (
    "[" * 100_000, '{"weight_map":' * 5000, '{"weight_map": {"a": NaN}}', "[]", "null", "", "{}", {"weight_map": []},
    {"weight_map": {"a": 1}}, {"weight_map": {"a": [FILE]}}, {"weight_map": {"a": {"a": FILE}}}, {"weight_map": None},
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_weight_file_of_this_directory_is_refused(checkpoint: Path, name: str) -> None:
    with pytest.raises(ConvsvcError) as caught:
        opened(checkpoint, {"weight_map": {"a": FILE, "b": name}})
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("index", NO_MAPS, ids=range(len(NO_MAPS)))
def test_what_is_no_map_of_names_is_refused(checkpoint: Path, index: Any) -> None:
    with pytest.raises(SourceError):
        opened(checkpoint, index)


def test_a_hundred_thousand_tensors_in_one_file_open_it_once(checkpoint: Path) -> None:
    found = opened(checkpoint, {"weight_map": {"a": FILE} | {f"b{number}": FILE for number in range(100_000)}})
    assert list(found.found) == [("", "a")]
    (note,) = found.notes
    assert note.text.startswith("100000 tensor(s) in no file")
    assert len(note.text) < 500


def test_a_hundred_thousand_files_that_are_not_there_are_a_short_error(checkpoint: Path) -> None:
    with pytest.raises(SourceError, match=r"names 100000 file") as caught:
        opened(checkpoint, {"weight_map": {f"b{number}": f"missing-{number}" for number in range(100_000)}})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["__proto__", "constructor", "__class__", "../../etc/passwd", "", "\u202e", "a\x00b", "{layer}", "%s%n"])
def test_a_tensors_name_is_only_a_name(checkpoint: Path, name: str) -> None:
    safetensors.torch.save_file({name: torch.ones(2)}, checkpoint / FILE)
    found = opened(checkpoint, {"weight_map": {name: FILE}})
    assert list(found.found) == [("", name)]


def test_a_thousand_tensors_of_one_name_are_not_one(checkpoint: Path) -> None:
    entry = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    header = ("{" + ", ".join([entry] * 1000) + "}").encode()
    (checkpoint / FILE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ConvsvcError, match="'a' occurs twice"):
        opened(checkpoint, {"weight_map": {"a": FILE}})
