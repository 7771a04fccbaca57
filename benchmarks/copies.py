"""What it costs to compare the copies that ranks hold alike: rank files to Hugging Face with `check_copies` all, small and none.

    python -m benchmarks.copies                         the models of `benchmarks.convert`: tp 2 ep 4, and tp 4
    ... --models dense --layers 2 --rounds 1            something quick

A rank file of the mixture of experts holds all of attention again for each expert rank; of the dense model only the norms are held
again. Arms take turns within a round, each from a cold cache; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.convert import SIZES, Case, make_cases
from benchmarks.measuring import Measured, empty_caches, machine, run_module
from benchmarks.models import MODELS
from benchmarks.results import FOLDER, MB, MIB, save

LEVELS = ("all", "small", "none")
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(sorted(SIZES)))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    began, rows = machine(), []
    for model in given.models.split(","):
        layers = given.layers or int(MODELS[model]["num_hidden_layers"])
        with tempfile.TemporaryDirectory(prefix="convsvc-bench-", dir=given.work_dir) as work:
            _, back = make_cases(model, layers, Path(work), None)
            rows += compare_levels(back, given.rounds, Path(work) / "target")
    title = f"Comparing copies, {given.layers or 'all'} layers, {WORKERS} workers, median of {given.rounds}"
    save("copies", title, rows, began, given.results)


def compare_levels(case: Case, rounds: int, target: Path) -> list[dict[str, Any]]:
    """A row for each level."""
    runs: dict[str, list[Measured]] = {level: [] for level in LEVELS}
    for _ in range(rounds):
        for level in LEVELS:
            empty_caches(case.source)
            job = case.job(target, "none")
            job["options"]["check_copies"] = level
            runs[level].append(run_module("benchmarks.one_job", json.dumps(job), WORKERS))
            shutil.rmtree(target)
    walls = {level: statistics.median(run.wall_s for run in runs[level]) for level in LEVELS}
    return [_row(case, level, runs[level], walls) for level in LEVELS]


def _row(case: Case, level: str, runs: list[Measured], walls: dict[str, float]) -> dict[str, Any]:
    return {
        "case": case.name,
        "check_copies": level,
        "wall s": walls[level],
        "x none": walls[level] / walls["none"],
        "cpu s": statistics.median(run.cpu_s for run in runs),
        "peak MiB": max(run.peak_bytes for run in runs) / MIB,
        "MB read": max(run.read_bytes for run in runs) // MB,
        "MB in": case.in_bytes // MB,
        "MB out": case.out_bytes // MB,
    }


if __name__ == "__main__":
    main()
