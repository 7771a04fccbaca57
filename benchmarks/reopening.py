"""Opening what was written, before it is published: what every conversion does in the end, on checkpoints of a trillion parameters.

    python -m benchmarks.reopening                       DeepSeek-V3 671B and a Kimi-K2-like 1T, two layouts each, and back
    ... --directory /disk --models kimi-k2-1t            where the files go; one model

Files have their real sizes and headers; weights are holes, as nothing of them is read but the sample that safetensors and torch look at.
Beside it stand planning, which is done once a conversion too, and the witnesses, which are called by `verify: full` only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks.measuring import ROOT, machine
from benchmarks.planning import LAYOUTS, job, peak_bytes, shown
from benchmarks.results import FOLDER, MIB, save
from benchmarks.sparse_models import MODELS, write_sparse_model, write_sparse_target
from convsvc.execute.check.witness import call_witnesses
from convsvc.formats.zip.crc import crc32_zeros
from convsvc.plan.opened import check_opens
from convsvc.plan.planner import make_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where files are written, a gigabyte (default: a temporary one)")
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="reopening-") as name:
        rows = [row for model in options.models.split(",") for row in reopen_model(model, Path(name))]
    save("reopening", "Opening what was written, from headers alone", rows, before, options.results)


def reopen_model(model: str, root: Path) -> list[dict[str, Any]]:
    """A row for each layout, to it and from it."""
    write_sparse_model(root / model, MODELS[model])
    rows = []
    for layout in LAYOUTS:
        there = job(root / model, layout)
        back = {
            "source": {"format": "mindspeed-llm", "path": there["target"]["path"]},
            "target": {"format": "huggingface", "path": str(root / "back"), "config_dir": str(root / model)},
        }
        rows.append({"model": model, "conversion": f"to {shown(layout)}", **in_own_process(there)})
        rows.append({"model": model, "conversion": f"from {shown(layout)}", **in_own_process(back)})
        subprocess.run(["rm", "-r", there["target"]["path"], back["target"]["path"]], check=True)
    return rows


def measure(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Plans, makes the target of holes, and opens it, in this process."""
    began = perf_counter()
    plan = make_plan(dict(wanted))
    planned_s, planned_peak, target = perf_counter() - began, peak_bytes(), Path(plan.target_path)
    write_sparse_target(plan, target)
    for side in plan.side_files:
        if side.copy_from is not None:
            (target / side.path).write_bytes(Path(side.copy_from).read_bytes())
    began, cpu_began = perf_counter(), process_time()
    check_opens(plan, plan.target_path)
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu_began
    crcs = {number: crc32_zeros(tensor.size_bytes) for number, tensor in enumerate(plan.target_tensors)}
    peak, began, directory = peak_bytes(), perf_counter(), os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    call_witnesses(plan, directory, crcs)
    os.close(directory)
    return {
        "files": len(plan.target_files),
        "tensors": len(plan.target_tensors),
        "planning s": planned_s,
        "opening s": seconds,
        "opening cpu s": cpu_seconds,
        "planning peak MiB": planned_peak / MIB,
        "peak MiB": peak / MIB,
        "witnesses s": perf_counter() - began,
    }


def in_own_process(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What `measure` answers in a fresh interpreter."""
    code = "import json, sys; from benchmarks import reopening; print(json.dumps(reopening.measure(json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(wanted)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return answer


if __name__ == "__main__":
    main()
