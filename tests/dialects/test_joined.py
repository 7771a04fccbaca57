"""A model whose modules lie in directories of their own is one checkpoint."""

from __future__ import annotations

import pytest

from convsvc.dialects.checkpoint import Checkpoint, Encoded, Found, SourceFile
from convsvc.dialects.joined import join_modules, shifted
from convsvc.encodings.base import Form
from convsvc.errors import SourceError
from convsvc.formats.base import StoredTensor
from convsvc.models.facts import Facts
from convsvc.notes import Note


def part(path: str, names: dict[tuple[str, str], int], files: int) -> Checkpoint:
    found = {key: Found(file, StoredTensor(key[1], "BF16", (2,), 0)) for key, file in names.items()}
    stored = tuple(SourceFile(f"{path}/{number}", "safetensors", 1, 1, f"{path}/{number}") for number in range(files))
    return Checkpoint(path, stored, found, Facts({"hidden_size": files}, path), settings=path, notes=(Note("advice", path),))


def test_tensors_keep_their_files_and_are_told_apart_by_module() -> None:
    vision = part("/vit", {("mp_rank_00/a.pt", "model/w"): 1}, files=2)
    text = part("/llm", {("mp_rank_00/a.pt", "model/w"): 0, ("mp_rank_01/a.pt", "model/w"): 1}, files=2)
    joined = join_modules({"image_encoder": vision, "text_decoder": text}, main="text_decoder")
    paths = {key: joined.files[each.file].path for key, each in joined.found.items()}
    assert paths == {
        ("image_encoder/mp_rank_00/a.pt", "model/w"): "/vit/1",
        ("text_decoder/mp_rank_00/a.pt", "model/w"): "/llm/0",
        ("text_decoder/mp_rank_01/a.pt", "model/w"): "/llm/1",
    }
    assert (joined.path, joined.facts.get("hidden_size")) == ("/llm", 2)
    assert [note.text for note in joined.notes] == ["/vit", "/llm"]
    assert joined.settings == {"image_encoder": "/vit", "text_decoder": "/llm"}


def test_a_tensor_that_two_modules_hold_is_an_error_that_names_both_directories() -> None:
    one, other = part("/vit", {("", "w"): 0}, files=1), part("/llm", {("", "w"): 0}, files=1)
    with pytest.raises(SourceError, match=r"w is in the directories of two modules: /vit \(vision\) and /llm \(text\)"):
        join_modules({"vision": one, "text": other}, main="text")


def test_the_pieces_of_a_quantised_weight_move_with_it() -> None:
    codes, scale = Found(0, StoredTensor("w", "F8_E4M3", (2, 2), 0)), Found(1, StoredTensor("w_scale", "F32", (1, 1), 0))
    encoded = Encoded(Form("fp8", (2, 2), (), "tensor"), (codes, scale))
    moved = shifted({("", "w"): Found(0, StoredTensor("w", "BF16", (2, 2), 0), encoded)}, 3)["", "w"]
    assert moved.file == 3
    assert [piece.file for piece in moved.pieces] == [3, 4]
