"""The largest process's memory while torch DCP and MindSpeed-MM's rank files are written and read, beside what the plan promises.

    python -m benchmarks.memory                    4 GB of a dense model, and of Qwen2-VL's shape
    ... --work-dir /disk --share 0.1               where the files go, some 10 GB; a tenth of the layers

A worker is to stay below 512 MiB, whatever the model, the format, the size of files. Peaks are resident memory as the kernel counted it,
the planning process's own included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, empty_caches, machine, run_module, tree_bytes
from benchmarks.results import FOLDER, MIB, save

# Layers of the models of benchmarks.models: 4 GB each.
MODELS = {"dense": 10, "vision": 5}
DCP = {"torch DCP, whole tensors": {"format": "dcp"}, "torch DCP, 4 shards": {"format": "dcp", "shards": 4}}
RANKS = {"MindSpeed-MM, tp 2, 2 stages": {"format": "mindspeed-mm", "tp_size": 2}}


def measure(source: Path, model: str, layers: int, target: Mapping[str, Any], name: str, work: Path) -> Iterator[dict[str, Any]]:
    """A row for the way there and one for the way back; what was written is gone then."""
    there, back = work / "there", work / "back"
    if target["format"] == "mindspeed-mm":
        target = {**target, "llm_pp_layers": [layers - layers // 2, layers // 2], "vit_pp_layers": [32, 0]}
    first = {"source": {"format": "huggingface", "path": str(source)}, "target": {**target, "path": str(there)}}
    again = {"format": target["format"], "path": str(there), "config_dir": str(source)}
    second = {"source": again, "target": {"format": "huggingface", "path": str(back)}}
    try:
        for way, job in ((f"{model} to {name}", first), (f"{model} from {name}", second)):
            read = Path(job["source"]["path"])
            empty_caches(read)
            bound = projected(job)
            took = run_module("benchmarks.one_job", json.dumps({**job, "options": {"verify": "none"}}), 1)
            yield {
                "case": way,
                "GB in": tree_bytes(read) / 1e9,
                "s": took.wall_s,
                "peak MiB": took.peak_bytes / MIB,
                "a worker's at most MiB": bound / MIB,
            }
    finally:
        shutil.rmtree(there, ignore_errors=True)
        shutil.rmtree(back, ignore_errors=True)


def projected(job: Mapping[str, Any]) -> int:
    """What the plan says a worker takes at most; planned in another process, for the kernel counts the launching one's memory."""
    code = (
        "import json, sys; from convsvc.plan.planner import make_plan; from convsvc.execute.forecast import projected_bytes; "
        "print(projected_bytes(make_plan(json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(job)]
    return int(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the layers")
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    began = machine()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="convsvc-bench-", dir=given.work_dir) as work:
        for model, targets in (("dense", DCP), ("vision", RANKS)):
            layers = max(2, round(MODELS[model] * given.share))
            source = Path(work) / model
            run_module("benchmarks.models", source, model, layers)
            for name, target in targets.items():
                rows += measure(source, model, layers, target, name, Path(work))
            shutil.rmtree(source)
    save("memory", "Memory of torch DCP and MindSpeed-MM, one worker", rows, began, given.results)


if __name__ == "__main__":
    main()
