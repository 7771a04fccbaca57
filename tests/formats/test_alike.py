"""Files that are alike are read by running one pickle; what differs in any way is read for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convsvc.formats import torch_zip
from convsvc.formats.alike import MOST_KEPT, Alike, Content


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose pickle was run."""
    run: list[str] = []
    original = torch_zip.read_torch_pickle

    def counted(data: bytes, source: str) -> object:
        run.append(Path(source).name)
        return original(data, source)

    monkeypatch.setattr(torch_zip, "read_torch_pickle", counted)
    monkeypatch.setattr(torch_zip, "_ALIKE", Alike())
    return run


def save(path: Path, tree: dict[str, object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save(tree, path)
    return path


def test_ranks_of_other_values_share_one_run_and_keep_their_own_paths(tmp_path: Path, runs: list[str]) -> None:
    paths = [save(tmp_path / f"rank{n}" / "model.pt", {"w": torch.full((3, 5), float(n)), "iteration": 1}) for n in range(3)]
    indexes = [torch_zip.read_index(path) for path in paths]
    assert len(runs) == 1
    assert [index.path for index in indexes] == [str(path) for path in paths]
    assert all(index.tensors == indexes[0].tensors for index in indexes)
    for number, (path, index) in enumerate(zip(paths, indexes, strict=True)):
        (tensor,) = index.tensors
        assert path.read_bytes()[tensor.file_offset :][:4] == torch.tensor(float(number)).numpy().tobytes()


@pytest.mark.parametrize(
    "other",
    [{"w": torch.zeros(5, 3)}, {"v": torch.zeros(3, 5)}, {"w": torch.zeros(3, 5, dtype=torch.int32)}, {"w": torch.zeros(3, 5), "more": 1}],
    ids=["shape", "name", "dtype", "beside it"],
)
def test_what_differs_is_read_for_itself(other: dict[str, object], tmp_path: Path, runs: list[str]) -> None:
    one = torch_zip.read_index(save(tmp_path / "model.pt", {"w": torch.zeros(3, 5)}))
    two = torch_zip.read_index(save(tmp_path / "b" / "model.pt", other))
    assert len(runs) == 2
    assert (one.tensors, one.tree.keys()) != (two.tensors, two.tree.keys())


def test_the_same_pickle_beside_other_records_is_read_for_itself(tmp_path: Path, runs: list[str]) -> None:
    path = save(tmp_path / "model.pt", {"w": torch.zeros(3, 5)})
    # Another name of the archive moves what follows; the pickle stays as it is.
    longer = save(tmp_path / f"{'a-much-longer-name-than-that-' * 4}.pt", {"w": torch.zeros(3, 5)})
    assert torch_zip.read_index(path).tensors[0].file_offset != torch_zip.read_index(longer).tensors[0].file_offset
    assert len(runs) == 2


def test_only_the_last_contents_are_kept() -> None:
    alike, content = Alike(), Content((), {})
    for number in range(MOST_KEPT + 1):
        alike.keep(b"%d" % number, (), content)
    assert alike.find(b"0", ()) is None
    assert alike.find(b"1", ()) is content
    alike.keep(bytes(2 << 20), (), content)
    assert alike.find(bytes(2 << 20), ()) is None
