"""Pickles taken apart into their opcodes, and put together wrongly."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from random import Random

from tests.security.fuzz.mutate import change_bytes

GLOBALS = (
    "os system", "builtins eval", "builtins getattr", "builtins set", "builtins bytes", "builtins bytearray", "collections OrderedDict",
    "collections defaultdict", "argparse Namespace", "torch Size", "torch bfloat16", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2", "torch FloatStorage",
    "torch UntypedStorage", "torch.storage UntypedStorage", "_codecs encode", "copyreg _reconstructor", "megatron.core.enums ModelType",
    "numpy.core.multiarray _reconstruct", "__main__ X", "types SimpleNamespace",
)  # fmt: skip
_PLAIN = [bytes([code]) for code in b"(01 2N\x88\x89]})\x8flt\x85\x86\x87d\x91aesu\x90\x94R\x81\x92bQ\x93.".replace(b" ", b"")]
_VALUES = [
    b"K\x00", b"K\x05", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"\x8a\xff" + b"\x7f" * 255, b"\x8b\x10\x00\x00\x00" + b"\x01" * 16, b"\x8b\xff\xff\xff\x7f", b"G\x7f\xf0" + bytes(6),
    b"G\x7f\xf8" + bytes(6), b"X\x00\x00\x00\x00", b"X\x07\x00\x00\x00storage", b"X\x01\x00\x00\x000", b"X\x03\x00\x00\x00cpu",
    b"X\x08\x00\x00\x00__dict__", b"X\xff\xff\xff\x7f", b"X\x03\x00\x00\x00\xed\xa0\x80", b"\x8c\x01a", b"\x8c\x02\xff\xfe",
    b"\x8d" + b"\xff" * 8, b"C\x03abc", b"B\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"U\x02ab",
    b"T\x01\x00\x00\x00a", b"\x95" + b"\x10" + bytes(7), b"\x80\x05", b"r\xff\xff\xff\xff", b"j\x05\x00\x00\x00",
    b"I10\n", b"L5L\n", b"S'a'\n", b"Va\n", b"p0\n", b"g0\n", b"ios\nsystem\n", b"\x82\x01", b"\x97", b"\x98",
]  # fmt: skip
# Small programs that copy, double or nest what stands on the stack.
_BOMBS = [
    b"(" + b"N" * 200 + b"l", b"]" * 150, b")" + b"\x85" * 150, b"(" * 500, b"]q\x00" + b"h\x00a" * 50, b"]q\x01(h\x01h\x01e" * 20,
    b"}q\x02" + b"h\x02K\x01h\x02s" * 20, b"2" * 100 + b"t", b"\x94" * 50, b"h\x00h\x00\x86q\x00" * 60, b"h\x00h\x00\x86" * 30 + b"Ns",
    b"cbuiltins\nset\n(" + b"K\x01" * 50 + b"l\x85R", b"X\x06\x00\x00\x00latin1",
]  # fmt: skip


def opcodes_of(pickle: bytes) -> list[bytes]:
    """A valid pickle, one piece an opcode."""
    places = [position for _, _, position in pickletools.genops(pickle) if position is not None]
    return [pickle[start:stop] for start, stop in zip(places, [*places[1:], len(pickle)], strict=True)]


def change_pickle(rng: Random, programs: Sequence[list[bytes]]) -> bytes:
    """A program with opcodes left out, doubled, moved, taken from another or made up; sometimes with changed bytes."""
    program = list(rng.choice(programs))
    for _ in range(1 + min(int(rng.expovariate(0.6)), 7)):
        _change(rng, program, programs)
    data = b"".join(program)
    return change_bytes(rng, data, (), _VALUES) if rng.random() < 0.2 else data[: 1 << 16]


def _change(rng: Random, program: list[bytes], programs: Sequence[list[bytes]]) -> None:
    at = rng.randrange(len(program) + 1)
    kind = rng.randrange(9)
    if kind == 0:
        del program[at : at + rng.choice((1, 1, 2, 5))]
    elif kind == 1:
        program[at:at] = program[at : at + rng.randrange(1, 6)] * rng.choice((1, 2, 30))
    elif kind == 2 and len(program) > 1:
        other = rng.randrange(len(program))
        at = min(at, len(program) - 1)
        program[at], program[other] = program[other], program[at]
    elif kind == 3:
        other_program = rng.choice(programs)
        start = rng.randrange(len(other_program))
        program[at:at] = other_program[start : start + rng.randrange(1, 20)]
    elif kind == 4:
        program.insert(at, _made_up(rng))
    elif kind == 5 and at < len(program):
        program[at] = _made_up(rng)
    elif kind == 6:
        program.insert(at, rng.choice(_BOMBS))
    elif kind == 7:
        program[at:at] = [rng.choice(_PLAIN) for _ in range(rng.randrange(1, 8))]
    else:
        program.insert(at, rng.choice((b"h", b"q", b"K")) + bytes([rng.randrange(64)]))


def _made_up(rng: Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return b"c" + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
    if kind == 1:
        return b"c" + rng.choice(GLOBALS).replace(" ", "\n").encode() + b"\n" + rng.choice((b")R", b")\x81", b"K\x01\x85R", b"]\x85R}b"))
    return rng.choice(_VALUES) if kind == 2 else bytes([rng.randrange(256)])
