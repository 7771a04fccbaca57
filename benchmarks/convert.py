"""Hugging Face to mcore and back, against a floor, `cp -r` and a naive script; one and two workers.

    python -m benchmarks.convert --model moe            7 GB Qwen3-MoE, tp 2 ep 4, grouped gemm
    python -m benchmarks.convert --model dense          4 GB, tp 4
    ... --dtype fp16 --work-dir /dev/shm                casts all values, in memory: the processor is the bottleneck, not the disk
    ... --formats mindspeed-llm,megatron                rank files, and Megatron's torch_dist
    ... --layers 1 --arms floor,convsvc-1 --rounds 1    something quick

Arms take turns within a round; before each one all is on the disk and nothing in memory; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Measured, empty_caches, machine, run_measured, run_module, tree_bytes
from benchmarks.models import MODELS
from benchmarks.results import FOLDER, MB, MIB, save

SIZES: Mapping[str, Mapping[str, Any]] = {
    "moe": {"tensor_parallel_size": 2, "expert_parallel_size": 4, "moe_grouped_gemm": True},
    "dense": {"tensor_parallel_size": 4},
}
NAMES = {"mindspeed-llm": "mcore", "megatron": "torch_dist"}
ARMS = ("floor", "floor-deep", "floor-digest", "cp", "cp-sync", "naive", "convsvc-1", "convsvc-2", "convsvc-2-digest")

# Reads, and writes, that floor-deep has under way at once. More are no faster on a disk whose limit is bytes a second.
DEPTH = 4
# A plain copy is done when the last of it still waits in memory to be written; a conversion, when all of it is on the disk.
COPIES = {"cp": ("cp", "-r"), "cp-sync": ("sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"')}
PEERS = ("cp", "cp-sync", "naive", "convsvc-1-core")


@dataclass(frozen=True, slots=True)
class Case:
    """One direction of one model: a source directory, the target's part of the job, what is read of the one and written to the other."""

    name: str
    model: str
    source: Path
    source_format: str
    target: Mapping[str, Any]
    in_bytes: int
    out_bytes: int
    dtype: str | None = None

    def job(self, path: Path, verify: str) -> dict[str, Any]:
        source = {"format": self.source_format, "path": str(self.source)}
        return {"source": source, "target": {**self.target, "path": str(path)}, "options": {"verify": verify, "dtype": self.dtype}}


def run_arm(arm: str, case: Case, target: Path) -> Measured:
    """One arm, from a cold cache; its target is removed afterwards."""
    empty_caches(case.source)
    try:
        return _runs(case, target)[arm.split("-", maxsplit=1)[0]](arm)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _runs(case: Case, target: Path) -> Mapping[str, Callable[[str], Measured]]:
    def convsvc(arm: str) -> Measured:
        workers, *how = arm.split("-")[1:]
        job = case.job(target, "digest" if "digest" in how else "none")
        return run_module("benchmarks.one_job", json.dumps(job), workers, *(["--cpus", 1] if "core" in how else []))

    def floor(arm: str) -> Measured:
        more = {"floor-deep": ["--depth", DEPTH], "floor-digest": ["--reread"]}.get(arm, [])
        return run_module("benchmarks.floor", case.source, target, case.in_bytes, case.out_bytes, *more)

    sizes = SIZES[case.model]
    ranks = sizes["tensor_parallel_size"], sizes.get("expert_parallel_size", 1)
    return {
        "floor": floor,
        "cp": lambda arm: run_measured([*COPIES[arm], str(case.source), str(target)]),
        "naive": lambda _: run_module("benchmarks.naive", case.source, target, *ranks),
        "convsvc": convsvc,
    }


def compare(case: Case, arms: list[str], rounds: int, target: Path) -> list[dict[str, Any]]:
    """A row for each arm."""
    runs: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            runs[arm].append(run_arm(arm, case, target))
    walls = {arm: statistics.median(run.wall_s for run in runs[arm]) for arm in arms}
    return [_row(case, arm, runs[arm], walls) for arm in arms]


def _row(case: Case, arm: str, runs: list[Measured], walls: Mapping[str, float]) -> dict[str, Any]:
    floor = "floor-digest" if arm.endswith("digest") else "floor"
    ratios = {
        f"x {other}": walls[arm] / walls[there] for other, there in (("floor", floor), *((each, each) for each in PEERS)) if there in walls
    }
    return {
        "case": case.name,
        "arm": arm,
        "wall s": walls[arm],
        **ratios,
        "slowest s": max(run.wall_s for run in runs),
        "cpu s": statistics.median(run.cpu_s for run in runs),
        "peak MiB": max(run.peak_bytes for run in runs) / MIB,
        "MB read": max(run.read_bytes for run in runs) // MB,
        "MB written": max(run.written_bytes for run in runs) // MB,
        "MB in": case.in_bytes // MB,
        "MB out": case.out_bytes // MB,
    }


def make_cases(model: str, layers: int, work: Path, dtype: str | None, formats: Sequence[str]) -> list[Case]:
    """The model's directory and its conversions, all to be converted: to each format and back."""
    original = work / "original"
    run_module("benchmarks.models", original, model, layers)
    cases = []
    for name in formats:
        converted, said = work / name, NAMES[name]
        there = {"format": name, **(SIZES[model] if name == "mindspeed-llm" else {})}
        forth = Case(f"{model} to {said}", model, original, "huggingface", there, 0, 0, dtype)
        run_module("benchmarks.one_job", json.dumps(forth.job(converted, "none")), 2)
        sizes = tree_bytes(original), tree_bytes(converted)
        back = f"{model} {'' if said == 'mcore' else f'from {said} '}to Hugging Face"
        cases += [
            Case(forth.name, model, original, "huggingface", there, sizes[0], sizes[1], dtype),
            Case(back, model, converted, name, {"format": "huggingface"}, sizes[0], sizes[0], dtype),
        ]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SIZES), default="moe")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directions", choices=("both", "forth", "back"), default="both")
    parser.add_argument("--formats", default="mindspeed-llm", help="of " + ", ".join(NAMES))
    parser.add_argument("--dtype", choices=("bf16", "fp16"))
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    began = machine()
    layers = given.layers or int(MODELS[given.model]["num_hidden_layers"])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="convsvc-bench-", dir=given.work_dir) as work:
        cases = make_cases(given.model, layers, Path(work), given.dtype, given.formats.split(","))
        for case in {"both": cases, "forth": cases[::2], "back": cases[1::2]}[given.directions]:
            # The naive script goes one way only.
            arms = [arm for arm in given.arms.split(",") if arm != "naive" or case is cases[0]]
            rows += compare(case, arms, given.rounds, Path(work) / "target")
    others = "" if given.formats == "mindspeed-llm" else f"-{given.formats.replace(',', '-')}"
    name = f"convert-{given.model}{others}" + (f"-{given.dtype}" if given.dtype else "")
    save(name, f"Converting {given.model}, {layers} layers, median of {given.rounds}", rows, began, given.results)


if __name__ == "__main__":
    main()
