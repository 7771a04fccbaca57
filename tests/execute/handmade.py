"""A small plan made by hand: two source files, a safetensors and a torch zip target, what they shall hold, and side files.

w [hidden rows, ffn columns] lies in two source files, cut by rows; the target wants it transposed in one file, and cut by columns
for two ranks in another. norm is replicated; vocab grows by two rows of zeros. One task for w, one for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from convsvc.dialects.output import SideFile
from convsvc.formats import FORMATS, safetensors, torch_zip
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.plan.plan import Plan
from convsvc.plan.records import Fill, Place, PlannedFile, PlannedTensor, Task, Transfer, View


@dataclass(frozen=True)
class Handmade:
    plan: Plan
    target: Path
    source_files: tuple[Path, ...]
    w: np.ndarray
    norm: np.ndarray
    vocab: np.ndarray

    def with_plan(self, **changes: Any) -> Handmade:
        return replace(self, plan=replace(self.plan, **changes))

    def check_target(self) -> None:
        """The target is whole: read with the libraries that users read it with."""
        import torch
        from safetensors.numpy import load_file

        flat = load_file(self.target / "model.safetensors")
        np.testing.assert_array_equal(flat["w_t"], self.w.T)
        np.testing.assert_array_equal(flat["norm"], self.norm)
        ranks = torch.load(self.target / "rank" / "model.pt", weights_only=True)
        half = self.w.shape[1] // 2
        np.testing.assert_array_equal(ranks["w0"].numpy(), self.w[:, :half])
        np.testing.assert_array_equal(ranks["w1"].numpy(), self.w[:, half:])
        np.testing.assert_array_equal(ranks["norm"].numpy(), self.norm)
        np.testing.assert_array_equal(ranks["vocab"].numpy(), np.vstack([self.vocab, np.zeros_like(self.vocab[:2])]))
        assert (self.target / "latest.txt").read_text() == "release"
        assert (self.target / "config.json").read_text() == "{}"
        assert sorted(path.name for path in self.target.iterdir()) == [
            ".convsvc-made.json", "config.json", "conversion-report.json", "latest.txt", "model.safetensors", "rank",
        ]  # fmt: skip

    def check_nothing_left(self) -> None:
        """Neither the target nor anything beside it is there."""
        assert not self.target.exists()
        assert [path.name for path in self.target.parent.iterdir() if "convsvc" in path.name] == []


def make_handmade(folder: Path, rows: int = 64, columns: int = 32) -> Handmade:
    rng = np.random.default_rng(7)
    w, norm, vocab = (rng.integers(-(2**31), 2**31, shape, np.int32) for shape in ((rows, columns), (columns,), (6, 8)))
    half = rows // 2
    sources = _save(folder, {"a": {"w": w[:half], "norm": norm}, "b": {"w": w[half:], "vocab": vocab}})
    files, tensors = _planned_source(sources)
    skeletons = _skeletons(rows, columns)
    target_files, target_tensors = _planned_target(skeletons)
    find = {(t.file, t.name): n for n, t in enumerate(target_tensors)}
    took = {(t.file, t.name): n for n, t in enumerate(tensors)}
    w_transfer = Transfer(
        "w",
        (rows, columns),
        (1, 0),
        (
            _view((0, 0), (half, columns), (columns, 1), took[0, "w"]),
            _view((half, 0), (rows, columns), (columns, 1), took[1, "w"]),
        ),
        (
            _view((0, 0), (rows, columns), (1, rows), find[0, "w_t"]),
            _view((0, 0), (rows, columns // 2), (columns // 2, 1), find[1, "w0"]),
            _view((0, columns // 2), (rows, columns), (columns // 2, 1), find[1, "w1"]),
        ),
    )
    norm_transfer = Transfer(
        "norm",
        (columns,),
        (0,),
        (_view((0,), (columns,), (1,), took[0, "norm"]),),
        (View((0,), (columns,), (1,), (Place(find[0, "norm"], 0), Place(find[1, "norm"], 0))),),
    )
    vocab_transfer = Transfer(
        "vocab",
        (6, 8),
        (0, 1),
        (_view((0, 0), (6, 8), (8, 1), took[1, "vocab"]),),
        (_view((0, 0), (6, 8), (8, 1), find[1, "vocab"]),),
        (Fill(find[1, "vocab"], 48, 16),),
    )
    config = folder / "config.json"
    config.write_text("{}")
    target = folder / "out" / "target"
    plan = Plan(
        job={"target": {"path": str(target)}},
        model_type="handmade",
        fingerprint="f" * 64,
        source_files=files,
        source_tensors=tensors,
        target_files=target_files,
        target_tensors=target_tensors,
        skeletons=skeletons,
        skeleton_of=(0, 1),
        side_files=(SideFile("config.json", copy_from=str(config)), SideFile("latest.txt", text="release", last=True)),
        tasks=(
            Task(0, "w", (w_transfer,), w.nbytes, 2 * w.nbytes),
            Task(1, "rest", (norm_transfer, vocab_transfer), norm.nbytes + vocab.nbytes, 2 * norm.nbytes + vocab.nbytes),
        ),
    )
    return Handmade(plan, target, tuple(sources), w, norm, vocab)


def reverse_of(plan: Plan) -> tuple[Task, ...]:
    """The plan's tasks with both sides swapped."""

    def back(transfer: Transfer) -> Transfer:
        # Of several views that hold an element one is enough; the first target view of each transfer here holds all.
        return replace(transfer, reads=transfer.writes[:1], writes=transfer.reads, fills=())

    return tuple(replace(task, transfers=tuple(back(t) for t in task.transfers)) for task in plan.tasks)


def _view(starts: tuple[int, ...], stops: tuple[int, ...], strides: tuple[int, ...], tensor: int) -> View:
    return View(starts, stops, strides, (Place(tensor, 0),))


def _save(folder: Path, contents: dict[str, dict[str, np.ndarray]]) -> list[Path]:
    paths = []
    for name, tensors in contents.items():
        paths.append(folder / f"{name}.safetensors")
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, paths[-1])
    return paths


def _planned_source(paths: list[Path]) -> tuple[tuple[PlannedFile, ...], tuple[PlannedTensor, ...]]:
    files = tuple(PlannedFile(str(p), p.stat().st_size, "safetensors", p.stat().st_mtime_ns) for p in paths)
    tensors = [
        PlannedTensor(number, t.name, t.dtype, t.shape, t.file_offset, t.size_bytes)
        for number, path in enumerate(paths)
        for t in FORMATS["safetensors"].read_index(path).tensors
    ]
    return files, tuple(tensors)


def _skeletons(rows: int, columns: int) -> tuple[Skeleton, ...]:
    flat = [TensorSpec("w_t", "I32", (columns, rows)), TensorSpec("norm", "I32", (columns,))]
    tree = {
        "w0": TensorSpec("w0", "I32", (rows, columns // 2)),
        "w1": TensorSpec("w1", "I32", (rows, columns // 2)),
        "norm": TensorSpec("norm", "I32", (columns,)),
        "vocab": TensorSpec("vocab", "I32", (8, 8)),
    }
    return safetensors.plan_skeleton(flat), torch_zip.plan_skeleton(tree, archive="model")


def _planned_target(skeletons: tuple[Skeleton, ...]) -> tuple[tuple[PlannedFile, ...], tuple[PlannedTensor, ...]]:
    names = (("model.safetensors", "safetensors"), ("rank/model.pt", "torch_zip"))
    files = tuple(PlannedFile(path, s.size_bytes, kind) for (path, kind), s in zip(names, skeletons, strict=True))
    tensors = [
        PlannedTensor(number, t.name, t.dtype, t.shape, t.file_offset, t.size_bytes)
        for number, skeleton in enumerate(skeletons)
        for t in skeleton.tensors
    ]
    return files, tuple(tensors)
