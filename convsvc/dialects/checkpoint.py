"""What lies there: a source checkpoint, as its headers have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

from convsvc.encodings.base import Form
from convsvc.formats.base import StoredTensor
from convsvc.models.facts import Facts
from convsvc.notes import Note
from convsvc.tensors.boxes import Box
from convsvc.tensors.quick import quick


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with tensors: its absolute path, its `formats/` name, and its size and time as they were when it was indexed.

    `name` is the path as the checkpoint has it, before links are followed: in a hub cache every file lies in blobs/, under no name.
    `digest` is of its headers.
    """

    path: str
    format: str
    size_bytes: int
    mtime_ns: int
    name: str
    digest: str = ""


class Found(NamedTuple):
    """A stored tensor that is there: number of its file, and where it lies in it; how it is encoded, where it is.

    The `tensor` of one that is encoded is what it counts as: with the name, the shape and the dtype of its values.
    """

    file: int
    tensor: StoredTensor
    encoded: Encoded | None = None

    @property
    def value_dtype(self) -> str:
        """What its elements are once they are read."""
        return self.tensor.dtype

    @property
    def pieces(self) -> tuple[Found, ...]:
        """The stored tensors that it is made of: itself where it is not encoded."""
        return (self,) if self.encoded is None else self.encoded.pieces

    def shaped(self, shape: tuple[int, ...]) -> Found:
        """What it is in a model where it has this shape, if its form allows that: the last columns may be padding. Itself if not."""
        if self.encoded is None or shape == self.tensor.shape:
            return self
        form = self.encoded.form
        stored = (*shape[:-2], shape[-1], shape[-2]) if form.turned and len(shape) > 1 else shape
        if stored[:-1] != form.shape[:-1] or not 0 <= form.columns - stored[-1] <= form.loose:
            return self
        tensor = self.tensor._replace(shape=shape)
        return Found(self.file, tensor, self.encoded._replace(form=replace(form, shape=stored, loose=0)))


def found_in(file: int, tensors: Iterable[StoredTensor]) -> Iterator[Found]:
    """Stored tensors as they lie in a file, by its number; very many at once."""
    return map(quick, repeat(Found), zip(repeat(file), tensors, repeat(None), strict=False))


class Encoded(NamedTuple):
    """A weight whose values are made from several stored tensors, its `pieces`: the codes first, the rest as its form has them."""

    form: Form
    pieces: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a checkpoint says of the LoRA adapters in it, and where (`origin`, for errors); None where it says nothing.

    The factor of a module's product is alpha / r, with rslora alpha / sqrt(r). A pattern is a regular expression for the end of a module's
    name, whose r or alpha is another one (peft/tuners/lora/config.py). `pieces`: of a side that is saved in several, by its name, which
    box of it lies where.
    """

    origin: str
    r: int | None = None
    alpha: float | None = None
    use_rslora: bool | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    pieces: Mapping[str, tuple[tuple[Box, Found], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Training:
    """What training needs beside tensors to go on: the iteration it has come to, and its own words by its own names, plain values.

    `args` are those of its arguments that count on (samples), `common` what it keeps beside them: an optimizer's groups, the schedule. A
    small tensor among these is a TensorSpec; its bytes are in `data`, by its path. `groups`: which of the optimizer's a weight is in, by
    its key, where that is said.
    """

    iteration: int
    args: Mapping[str, Any]
    common: Mapping[str, Any]
    data: Mapping[str, bytes]
    groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source checkpoint, from its headers.

    `found` holds every stored tensor by (file, name), file being empty where an Entry's is. `settings` are the dialect's own: what
    its layout needs beside the model. `notes` say what is there and is no weight. `lora`: what is said of adapters, if there are any.
    Where weights are quantised, `beside` are scales of activations, `quantised` what the configuration says of it, by where (`Release`).
    `training`: where the state of training was asked for, too. `iteration`: how far training has come, where the weights are of a run.
    """

    path: str
    files: tuple[SourceFile, ...]
    found: Mapping[tuple[str, str], Found]
    facts: Facts
    settings: Any = None
    notes: tuple[Note, ...] = ()
    lora: AdapterFacts | None = None
    beside: tuple[Found, ...] = ()
    quantised: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Training | None = None
    iteration: int | None = None
