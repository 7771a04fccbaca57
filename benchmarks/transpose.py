"""How fast one core transposes, in GB/s of CPU time: ours, numpy's plain copy, torch's, and a copy without a transpose.

python -m benchmarks.transpose
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import machine
from benchmarks.results import FOLDER, save
from convsvc.execute.kernels.copying import Bits, strided_copy

# Axes as stored, and the stored axis which each of the target's is.
CASES: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("an expert's down_proj, [hidden ffn] to [ffn hidden]", (2048, 768), (1, 0)),
    ("an expert's gate and up, [glu ffn hidden] to [hidden glu ffn]", (2, 768, 2048), (2, 0, 1)),
    ("the same, cut by tp 4", (2, 192, 2048), (2, 0, 1)),
    ("a matrix larger than the cache", (4096, 8192), (1, 0)),
    ("no transpose", (4096, 8192), (0, 1)),
]
# The processor's caches hold none of it from the time before.
TOTAL_BYTES = 256 << 20


def gigabytes_per_s(
    copy: Callable[[Any, Any], object], sources: list[Any], targets: list[Any], order: tuple[int, ...], rounds: int
) -> float:
    """The best of so many rounds over all arrays; bytes moved once count once."""
    best = float("inf")
    for _ in range(rounds):
        began = process_time()
        for source, target in zip(sources, targets, strict=True):
            copy(target, source.transpose(order) if isinstance(source, np.ndarray) else source.permute(order))
        best = min(best, process_time() - began)
    return float(sum(source.nbytes for source in sources) / best / 1e9)


def measure(name: str, shape: tuple[int, ...], order: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """One row: the arms take turns on the same arrays."""
    count = max(1, TOTAL_BYTES // (2 * int(np.prod(shape))))
    rng = np.random.default_rng(1)
    sources: list[Bits] = [rng.integers(0, 1 << 16, shape, np.uint16) for _ in range(count)]
    targets: list[Bits] = [np.zeros(tuple(shape[axis] for axis in order), np.uint16) for _ in range(count)]
    ours = gigabytes_per_s(strided_copy, sources, targets, order, rounds)
    plain = gigabytes_per_s(np.copyto, sources, targets, order, rounds)
    tensors = [[torch.from_numpy(array.view(np.int16)) for array in side] for side in (sources, targets)]
    theirs = gigabytes_per_s(lambda target, source: target.copy_(source), tensors[0], tensors[1], order, rounds)
    shown = " x ".join(str(length) for length in shape)
    return {"case": name, "bf16": shown, "ours GB/s": ours, "numpy GB/s": plain, "torch GB/s": theirs, "x numpy": ours / plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=FOLDER)
    given = parser.parse_args()
    began = machine()
    torch.set_num_threads(1)
    rows = [measure(*case, given.rounds) for case in CASES]
    save("transpose", f"Transposing bf16 on one core, the best of {given.rounds}", rows, began, given.results)


if __name__ == "__main__":
    main()
