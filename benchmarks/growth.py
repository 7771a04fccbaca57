"""Does time a byte, or memory, grow with the model or with the number of ranks?

    python -m benchmarks.growth                               1, 2, 4, 8 x layers; one rank file of 1 to 12 GB; tp x ep from 1 to 64
    ... --layers 1,2 --one-file-layers 1 --ranks 1x1,4x16     something quick

One Qwen3-MoE shape, Hugging Face to mcore with grouped gemm, one worker. CPU time a byte is the number to look at on a shared disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import empty_caches, machine, run_module, tree_bytes
from benchmarks.results import FOLDER, MB, MIB, save

RANKS = "1x1,2x1,2x4,4x4,1x64,4x16"


def convert_once(source: Path, target: Path, tp: int, ep: int, workers: int) -> dict[str, Any]:
    """A row of what one conversion took."""
    sizes = {"tensor_parallel_size": tp, "expert_parallel_size": ep, "moe_grouped_gemm": True}
    job = {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "mindspeed-llm", "path": str(target), **sizes},
        "options": {"verify": "none"},
    }
    empty_caches(source)
    try:
        took = run_module("benchmarks.one_job", json.dumps(job), workers)
        in_bytes, out_bytes = tree_bytes(source), tree_bytes(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    gigabytes = (in_bytes + out_bytes) / 1e9
    return {
        "MB in": in_bytes // MB,
        "MB out": out_bytes // MB,
        "wall s": took.wall_s,
        "wall s / GB": took.wall_s / gigabytes,
        "cpu s / GB": took.cpu_s / gigabytes,
        "peak MiB": took.peak_bytes / MIB,
        "read / source": took.read_bytes / in_bytes,
        "written / target": took.written_bytes / out_bytes,
    }


def grow_layers(what: str, layers: list[int], tp: int, ep: int, work: Path, workers: int) -> list[dict[str, Any]]:
    """A row for each number of layers, all to the same ranks."""
    rows = []
    for count in layers:
        source = work / f"layers-{count}"
        run_module("benchmarks.models", source, "moe-small-vocab", count)
        rows.append({"what": what, "layers": count, "tp x ep": f"{tp}x{ep}", **convert_once(source, work / "target", tp, ep, workers)})
        shutil.rmtree(source)
    return rows


def grow_ranks(ranks: list[str], layers: int, work: Path, workers: int) -> list[dict[str, Any]]:
    """A row for each tp x ep, all of one checkpoint. Every rank file has its own embeddings and attention: the output grows."""
    source = work / "ranks"
    run_module("benchmarks.models", source, "moe-small-vocab", layers)
    rows = []
    for each in ranks:
        tp, ep = map(int, each.split("x"))
        rows.append({"what": "ranks", "layers": layers, "tp x ep": each, **convert_once(source, work / "target", tp, ep, workers)})
    return rows


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="1,2,4,8")
    parser.add_argument("--one-file-layers", default="1,10")
    parser.add_argument("--ranks", default=RANKS)
    parser.add_argument("--ranks-layers", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    began = machine()
    with tempfile.TemporaryDirectory(prefix="convsvc-bench-", dir=given.work_dir) as work:
        rows = grow_layers("layers", _numbers(given.layers), 2, 4, Path(work), given.workers)
        rows += grow_layers("one rank file", _numbers(given.one_file_layers), 1, 1, Path(work), given.workers)
        rows += grow_ranks([each for each in given.ranks.split(",") if each], given.ranks_layers, Path(work), given.workers)
    save("growth", f"Growth, Qwen3-MoE to mcore, {given.workers} worker(s)", rows, began, given.results)


if __name__ == "__main__":
    main()
