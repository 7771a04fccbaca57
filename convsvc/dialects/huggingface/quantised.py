"""Which weights of a new Hugging Face directory are quantised, how they are stored then, and what config.json says of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convsvc.dialects.base import Layout, SideFile
from convsvc.encodings.base import Written
from convsvc.encodings.known import ENCODINGS
from convsvc.errors import JobError
from convsvc.formats.base import TensorSpec
from convsvc.notes import Note
from convsvc.tensors.dtypes import FLOATS

NONE = "none"


def encode_layers(quantization: str, layout: Layout, dtypes: Sequence[str]) -> dict[str, Written]:
    """How weights are written, by name: those of linear layers, as their rows say; of a model of experts only these where publishers do so.

    Raises JobError where there is none, or nothing that could be rounded.
    """
    if quantization == NONE:
        return {}
    writer = ENCODINGS.writers[quantization]
    linear = [(laid, dtype) for laid, dtype in zip(layout.kinds, dtypes, strict=True) if laid.linear and laid.written]
    experts = [each for each in linear if each[0].linear == "experts"]
    chosen = experts if experts and writer.EXPERTS_ONLY else linear
    found = {laid.name: writer.written(laid.name, laid.shape) for laid, dtype in chosen if dtype in FLOATS}
    encoded = {name: written for name, written in found.items() if written is not None}
    if not encoded:
        raise JobError(
            f"target.quantization is {quantization!r}, and none of the model's weights can be stored so",
            do="leave it out; what is quantised are the weights of linear layers, one by one",
        )
    return encoded


def stored_as(spec: TensorSpec, encoded: Mapping[str, Written]) -> list[TensorSpec]:
    """The stored tensors that a weight is: its codes first."""
    written = encoded.get(spec.name)
    if written is None:
        return [spec]
    return [TensorSpec(name, part.dtype, part.shape) for name, part in zip(written.names, written.parts, strict=True)]


def quantization_words(quantization: str, specs: Sequence[TensorSpec], encoded: Mapping[str, Written]) -> Mapping[str, Any] | None:
    """What config.json says; the modules that are not quantised are those of every other matrix."""
    if quantization == NONE:
        return None
    kept = [spec.name.removesuffix(".weight") for spec in specs if spec.name.endswith(".weight") and len(spec.shape) == 2]
    return ENCODINGS.writers[quantization].words([name for name in kept if f"{name}.weight" not in encoded])


def quantization_notes(quantization: str, encoded: Mapping[str, Written], beside: Sequence[SideFile]) -> list[Note]:
    """What is rounded; and that nothing says so where there is no config.json."""
    if quantization == NONE:
        return []
    shared = next(iter(encoded.values())).form.shared_by
    notes = [Note("changed", f"{len(encoded)} weights are quantised to {quantization}, with a new scale for each {shared}")]
    ragged = sorted(name for name, each in encoded.items() if each.form.grids[1].rows > 1 and _is_ragged(each))
    if ragged:
        # integrations/finegrained_fp8.py divides rows and columns by the number of scales (5.24).
        text = f"128 does not divide the rows or columns of {len(ragged)} of them, e.g. {ragged[0]}: transformers takes other blocks then"
        notes.append(Note("advice", f"{text}; vLLM, SGLang and this program read them as they are written"))
    if not any(file.path == "config.json" for file in beside):
        notes.append(
            Note("advice", "no config.json is written, and only that tells a reader how weights are quantised; give target.config_dir")
        )
    return notes


def _is_ragged(written: Written) -> bool:
    """Whether the last blocks of rows or columns are short."""
    factors = written.form.grids[1]
    return any(size % by for size, by in zip(written.form.shape, (factors.rows, factors.columns), strict=True))
