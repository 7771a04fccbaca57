"""The norms that Megatron stores less 1 and Hugging Face as they are: that of a gated delta net's output. A declared change of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convsvc.dialects.checkpoint import Encoded, Found
from convsvc.dialects.layout import Layout
from convsvc.dialects.megatron.tables import LESS_ONE, is_delta_net
from convsvc.encodings import less_one
from convsvc.encodings.base import Written
from convsvc.errors import LayoutError, SourceError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.notes import Note
from convsvc.tensors.dtypes import FLOATS

Key = tuple[str, str]
# What values that are not BF16 are made in, and of what.
WIDE = "F32"
KNOWN = ("BF16", "F16", "F32")


def read_norms(found: Mapping[Key, Found]) -> tuple[dict[Key, Found], list[Note]]:
    """What was found, with those norms as the weights they stand for, and a note if there are any."""
    norms = {key: _read(each) for key, each in found.items() if _is_one(key[1], each.tensor.dtype)}
    if not norms:
        return dict(found), []
    text = f"{len(norms)} chunks of norms, e.g. {min(name for _, name in norms)}, are stored less 1: it is added in float32, rounded once"
    return {**found, **norms}, [Note("changed", text)]


def _read(found: Found) -> Found:
    tensor = found.tensor
    form = less_one.form_of(tensor.dtype, tensor.shape)
    return Found(found.file, tensor._replace(dtype="BF16" if tensor.dtype == "BF16" else WIDE), Encoded(form, (found,)))


def _is_one(name: str, dtype: str) -> bool:
    """Whether values are stored less 1 under a name. Raises LayoutError for a dtype that a difference would be rounded in."""
    if not name.endswith(LESS_ONE) or dtype not in FLOATS:
        return False
    if dtype not in KNOWN:
        raise LayoutError(f"{name} is {dtype}, and less 1 it is computed in float32: bits would be lost", do='state options.dtype "fp32"')
    return True


def write_norms(layout: Layout, dtypes: Sequence[str]) -> tuple[dict[str, Written], list[Note]]:
    """How those of a target are written, and a note if there are any."""
    kinds = [(laid, dtype) for laid, dtype in zip(layout.kinds, dtypes, strict=True) if _is_one(laid.name, dtype)]
    if not kinds:
        return {}, []
    written = {laid.name: less_one.written(laid.name, dtype, laid.shape) for laid, dtype in kinds}
    text = f"{len(written)} norms, e.g. {min(written)}, are stored less 1, as Megatron has all norms: computed in float32, rounded once"
    narrow = sorted({dtype.lower() for _, dtype in kinds} & {"bf16", "f16"})
    beyond = f"; in {' and '.join(narrow)} that is exact for weights of at least 0.5, and others lose bits" if narrow else ""
    return written, [Note("changed", text + beyond)]


def check_norms(model: Model, args: Facts) -> None:
    """Raises SourceError where training multiplied by such a norm as it is stored."""
    said = args.get("apply_layernorm_1p", "layernorm_zero_centered_gamma")
    if said is False and any(map(is_delta_net, model.scopes)):
        raise SourceError(
            f"{args.origin} say apply_layernorm_1p False: its norms are multiplied as they are stored, and those of {model.family.name} "
            "are added to 1",
            do="convert what was trained with --apply-layernorm-1p",
        )
