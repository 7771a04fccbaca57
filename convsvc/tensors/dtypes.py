"""Element types by their safetensors tags, and their sizes in bytes."""

from __future__ import annotations

from convsvc.errors import FormatError

SIZES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

# Casting from the key to any of the values and back gives the same bits.
WIDER: dict[str, frozenset[str]] = {
    "BF16": frozenset({"F32", "F64"}),
    "F16": frozenset({"F32", "F64"}),
    "F32": frozenset({"F64"}),
}


def size_of(dtype: str) -> int:
    """Bytes an element takes.

    >>> size_of("BF16")
    2

    Raises FormatError for a tag nobody knows.
    """
    try:
        return SIZES[dtype]
    except KeyError:
        raise FormatError(f"unknown dtype {dtype!r}", do=f"known are {', '.join(sorted(SIZES))}") from None


def is_lossless(source: str, target: str) -> bool:
    """Whether a cast from `source` to `target` can be undone bit for bit."""
    return source == target or target in WIDER.get(source, frozenset())


def common_dtype(one: str, other: str) -> str | None:
    """The type in which the values of both can be compared without a loss; None if there is none.

    >>> common_dtype("BF16", "F32"), common_dtype("BF16", "F16"), common_dtype("BF16", "I16")
    ('F32', 'F32', None)
    """
    return next((each for each in (one, other, "F32", "F64") if is_lossless(one, each) and is_lossless(other, each)), None)
