"""A training run that saves tiny iterations as Megatron and transformers do: parts first, what makes them look complete last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from convsvc.conversion import convert
from tests.tiny_checkpoints import write_llama

TRACKER = "latest_checkpointed_iteration.txt"


class MegatronRun:
    """Saves in `directory`. Each iteration has the same weights, in files of its own."""

    def __init__(self, place: Path, directory: Path) -> None:
        self.directory = directory
        target = {"format": "mindspeed-llm", "path": str(place / "mcore"), "tensor_parallel_size": 2}
        source = {"format": "huggingface", "path": str(write_llama(place / "model", layers=1))}
        convert({"source": source, "target": target}, engine="inline")
        self._saved = next((place / "mcore").glob("iter_*"))
        directory.mkdir()

    def folder(self, iteration: int) -> Path:
        return self.directory / f"iter_{iteration:07d}"

    def begin(self, iteration: int) -> None:
        """Half of it: the first rank's file, and half of the second's."""
        ranks = sorted(self._saved.glob("mp_rank_*"))
        shutil.copytree(ranks[0], self.folder(iteration) / ranks[0].name, dirs_exist_ok=True)
        half = self.folder(iteration) / ranks[1].name
        half.mkdir(exist_ok=True)
        data = next(ranks[1].iterdir())
        (half / data.name).write_bytes(data.read_bytes()[: data.stat().st_size // 2])

    def finish(self, iteration: int) -> None:
        """The whole, written anew, and the tracker's word."""
        shutil.rmtree(self.folder(iteration), ignore_errors=True)
        for rank in sorted(self._saved.glob("mp_rank_*")):
            (self.folder(iteration) / rank.name).mkdir(parents=True)
            for file in rank.iterdir():
                shutil.copyfile(file, self.folder(iteration) / rank.name / file.name)
        self.track(iteration)

    def track(self, iteration: int) -> None:
        (self.directory / TRACKER).write_text(str(iteration))

    def save(self, iteration: int) -> None:
        self.begin(iteration)
        self.finish(iteration)

    def watch(self, out: Path, **more: Any) -> dict[str, Any]:
        """A watch of this run that makes Hugging Face directories."""
        target = {"format": "huggingface", "path": f"{out}/{{iteration}}"}
        return {"directory": str(self.directory), "job": {"source": {"format": "mindspeed-llm"}, "target": target}, "rest_s": 0, **more}
