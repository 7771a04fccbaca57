"""How fast one core makes bf16 of what is quantised, in GB/s of output and CPU time: ours, and the reference's way in torch.

python -m benchmarks.decoding
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
from convsvc.encodings.base import Form, Part, Rect, Region
from convsvc.encodings.known import claims
from convsvc.execute.kernels.dequantising import dequantise
from convsvc.execute.steps.decoding import Decoding, Lies

# An expert of DeepSeek-V3: rows, columns.
ROWS, COLUMNS = 2048, 7168
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.bfloat16)
Tensors = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    before = machine()
    torch.set_num_threads(1)
    rows = [measure(name, make, options.rounds) for name, make in CASES.items()]
    save("decoding", "Decoding quantised weights to bf16, a core", rows, before, options.results)


def measure(name: str, make: Callable[[], tuple[Tensors, Callable[[], torch.Tensor]]], rounds: int) -> dict[str, Any]:
    """One row: the arms take turns, the best round of each counts."""
    tensors, reference = make()
    decoding, buffer = laid(tensors)
    best = [float("inf")] * 2
    for _ in range(rounds):
        for arm, run in enumerate((lambda: dequantise(decoding, buffer), reference)):
            began = process_time()
            run()
            best[arm] = min(best[arm], process_time() - began)
    have = torch.from_numpy(buffer[: ROWS * COLUMNS * 2]).view(torch.bfloat16).reshape(ROWS, COLUMNS)
    assert torch.equal(have, reference()), "both make the same values"
    ours, theirs = (2 * ROWS * COLUMNS / each / 1e9 for each in best)
    return {"encoding": name, "ours GB/s": ours, "torch GB/s": theirs, "x torch": ours / theirs}


class Look:
    """The tensors, and a configuration that says nothing."""

    def __init__(self, tensors: Tensors) -> None:
        self.parts = {name: Part(TAGS[each.dtype], tuple(each.shape)) for name, each in tensors.items()}

    def part(self, name: str) -> Part | None:
        return self.parts.get(name)

    def said(self, name: str) -> tuple[Any, ...]:
        return ()


TAGS = {
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0", torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8",
    torch.int8: "I8", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip


def laid(tensors: Tensors) -> tuple[Decoding, Any]:
    """The whole weight as one rectangle of a buffer in which its pieces lie behind its values."""
    claim = next(found for name in tensors for found in claims(name, Look(tensors)))
    pieces = [tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy() for name in claim.pieces]
    at, starts = 2 * ROWS * COLUMNS, []
    for each in pieces:
        starts.append(at)
        at += -(-each.size // 64) * 64
    buffer = np.zeros(at, np.uint8)
    for start, each in zip(starts, pieces, strict=True):
        buffer[start : start + each.size] = each
    lies = tuple(Lies(whole(claim.form, number), start) for number, start in enumerate(starts))
    return Decoding(0, claim.name, claim.form, "BF16", 0, (Rect(0, ROWS, 1, 0, COLUMNS, 0),), (lies,)), buffer


def whole(form: Form, number: int) -> Region:
    grid = form.grids[number]
    return Region(0, grid.height, 1, 0, grid.width)


def weights() -> torch.Tensor:
    """Numbers as trained weights are."""
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def fp8(rows: int, columns: int, scales: Callable[[torch.Tensor], torch.Tensor], suffix: str) -> tuple[Tensors, Callable[[], torch.Tensor]]:
    """transformers' Fp8Dequantize: the grid spread out, multiplied, cast."""
    values, shape = weights(), (ROWS // rows, rows, COLUMNS // columns, columns)
    factors = values.reshape(shape).abs().amax((1, 3)) / 448
    stored = scales(factors)
    factors = stored.view(torch.float8_e8m0fnu).float() if stored.dtype == torch.uint8 else stored.float()
    codes = (values.reshape(shape) / factors[:, None, :, None]).clamp(-448, 448).reshape(ROWS, COLUMNS).to(torch.float8_e4m3fn)

    def reference() -> torch.Tensor:
        return (codes.to(torch.float32).reshape(shape) * factors[:, None, :, None]).reshape(ROWS, COLUMNS).to(torch.bfloat16)

    return {"w.weight": codes, f"w.weight{suffix}": stored}, reference


def mxfp4() -> tuple[Tensors, Callable[[], torch.Tensor]]:
    """transformers' convert_moe_packed_tensors: a table of sixteen, then ldexp."""
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (ROWS, COLUMNS // 2), dtype=torch.uint8, generator=rng)
    scales = torch.randint(110, 122, (ROWS, COLUMNS // 32), dtype=torch.uint8, generator=rng)

    def reference() -> torch.Tensor:
        made = torch.empty(ROWS, COLUMNS // 32, 32, dtype=torch.bfloat16)
        blocks = codes.reshape(ROWS, COLUMNS // 32, 16)
        made[..., 0::2] = E2M1[(blocks & 15).long()]
        made[..., 1::2] = E2M1[(blocks >> 4).long()]
        return torch.ldexp(made, scales.int()[..., None] - 127).reshape(ROWS, COLUMNS)

    return {"w.weight_packed": codes, "w.weight_scale": scales}, reference


def nvfp4() -> tuple[Tensors, Callable[[], torch.Tensor]]:
    """ModelOpt's NVFP4QTensor: a table of sixteen, times both scales."""
    rng, table = torch.Generator().manual_seed(0), E2M1.float()
    codes = torch.randint(0, 256, (ROWS, COLUMNS // 2), dtype=torch.uint8, generator=rng)
    scales = (torch.rand(ROWS, COLUMNS // 16, generator=rng) * 400).to(torch.float8_e4m3fn)
    second = torch.tensor(0.00123)

    def reference() -> torch.Tensor:
        values = torch.stack([table[(codes & 15).long()], table[(codes >> 4).long()]], -1).reshape(ROWS, COLUMNS // 16, 16)
        return (values * (scales.float() * second)[..., None]).reshape(ROWS, COLUMNS).to(torch.bfloat16)

    return {"w.weight": codes, "w.weight_scale": scales, "w.weight_scale_2": second}, reference


def int4() -> tuple[Tensors, Callable[[], torch.Tensor]]:
    """compressed-tensors' unpack and dequantise."""
    rng = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (ROWS, COLUMNS // 8), generator=rng).int()
    scales = (torch.rand(ROWS, COLUMNS // 32, generator=rng) * 0.01).bfloat16()
    shifts = torch.arange(8, dtype=torch.int32) * 4

    def reference() -> torch.Tensor:
        codes = ((words[..., None] >> shifts) & 15).reshape(ROWS, COLUMNS // 32, 32) - 8
        return (codes.float() * scales.float()[..., None]).reshape(ROWS, COLUMNS).to(torch.bfloat16)

    return {"w.weight_packed": words, "w.weight_scale": scales, "w.weight_shape": torch.tensor([ROWS, COLUMNS])}, reference


def exponents(factors: torch.Tensor) -> torch.Tensor:
    return (torch.ceil(torch.log2(factors)) + 127).to(torch.uint8)


CASES: dict[str, Callable[[], tuple[Tensors, Callable[[], torch.Tensor]]]] = {
    "FP8, 128 x 128 blocks": lambda: fp8(128, 128, lambda factors: factors, "_scale_inv"),
    "FP8, rows": lambda: fp8(1, COLUMNS, lambda factors: factors, "_scale"),
    "MXFP8": lambda: fp8(1, 32, exponents, "_scale"),
    "MXFP4": mxfp4,
    "NVFP4": nvfp4,
    "int4": int4,
}


if __name__ == "__main__":
    main()
