"""Values stored less 1: a norm's weight as what is added to 1, where others store the weight itself.

Megatron core stores all norms so under `layernorm_zero_centered_gamma`, that of a gated delta net's output, too, which Hugging Face's
Qwen3-Next stores as it is (Megatron-Bridge, RMSNorm2ZeroCenteredRMSNormMapping). Nothing but the name tells, so a dialect says which.

The sum and the difference are made in float32 and rounded once. Of a bf16 weight between 0.5 and 256 the difference is exact, and so is
the way back; of any other it need not be, nor is the sum of what training made of a difference near 0.
"""

from __future__ import annotations

import numpy as np

from convsvc.encodings.base import Bits, Bytes, Claim, Form, Look, Part, Piece, Rect, Written, codes_grid
from convsvc.encodings.numbers import Floats, decode_scales, round_to_bf16

TITLE = "stored less 1"
SIGNS: tuple[str, ...] = ()
ONE = np.float32(1)


def claim(stem: str, sign: str, look: Look) -> Claim | None:
    """No name is a sign of it."""
    return None


def form_of(dtype: str, shape: tuple[int, ...]) -> Form:
    """The form of a stored norm; its values count as float32 where it is float16."""
    height = shape[-2] if len(shape) > 1 else 1
    return Form("less_one", shape, (codes_grid(dtype, height, shape[-1]),), "tensor")


def written(name: str, dtype: str, shape: tuple[int, ...]) -> Written:
    """How a norm of this name, dtype and shape is written: in its own dtype."""
    return Written(form_of(dtype, shape), (name,), (Part(dtype, shape),))


def decode(form: Form, rect: Rect, pieces: tuple[Piece, ...], out: Bits, dtype: str) -> int:
    """What is stored, and 1."""
    stored = np.ascontiguousarray(pieces[0].rows(rect))
    values = decode_scales(stored.reshape(-1), form.grids[0].dtype).reshape(out.shape) + ONE
    out[...] = round_to_bf16(values) if dtype == "BF16" else values.view(np.uint32)
    return 0


def encode(form: Form, values: Floats, largest: float = 0.0) -> tuple[Bytes, ...]:
    """The values less 1."""
    less = np.ascontiguousarray(values - ONE)
    dtype = form.grids[0].dtype
    codes = round_to_bf16(less) if dtype == "BF16" else less.astype(np.float16) if dtype == "F16" else less
    return (np.ascontiguousarray(codes).view(np.uint8).reshape(values.shape[0], -1),)
