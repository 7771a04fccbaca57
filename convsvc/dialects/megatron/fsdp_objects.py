"""What Megatron-FSDP saves beside weights and moments: a state dict's plain values, an object each, by where they stand in it. Pure.

There is one for every field of a group and every weight in it, so that of a hundred thousand weights there are a million; few of them
differ. Each that does is written once, and all names of one point there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from convsvc.dialects.checkpoint import Training
from convsvc.dialects.megatron.fsdp_state import (
    GROUP,
    MOMENTS,
    STATE,
    STEP,
    Group,
    Groups,
    groups_of,
    is_of_torch,
    moment_name,
    optimizers_of,
)
from convsvc.dialects.megatron.fsdp_tables import PREFIX
from convsvc.dialects.megatron.state import FSDP_HALF
from convsvc.dialects.megatron.training import FULLY, SHARDING
from convsvc.errors import JobError, SourceError
from convsvc.formats.base import TensorSpec
from convsvc.formats.dcp.records import Chunk, Chunked, Item
from convsvc.formats.torch_zip_layout import torch_zip_bytes
from convsvc.notes import Note
from convsvc.tensors.boxes import Box

OPTIMIZER = "optimizer"
DO = "go on training from a target with storage torch_dist; or leave options.state out to convert the weights alone"
Path = tuple[str, ...]


class Objects:
    """Values by their names, as torch files one after the other in the file that is called so."""

    def __init__(self, file: str) -> None:
        self._file, self._data, self._items = file, bytearray(), dict[str, Item]()
        self.places: dict[str, Item] = {}
        self.paths: dict[str, Path] = {}

    @property
    def data(self) -> bytes:
        """The file."""
        return bytes(self._data)

    def add(self, path: Path, value: Any) -> None:
        """A value that stands at this path; below it what is in it, if it is a dict. Raises JobError for a tensor."""
        if isinstance(value, Mapping):
            for name, each in value.items():
                self.add((*path, str(name)), each)
        else:
            self.place(path, self.item(value, ".".join(path)))

    def place(self, path: Path, item: Item) -> None:
        """A name for what lies there."""
        name = ".".join(path)
        self.places[name], self.paths[name] = item, path

    def item(self, value: Any, what: str, tensors: Mapping[str, bytes] | None = None) -> Item:
        """Where a value lies, with the bytes of the tensor that it is. Raises JobError for one that has tensors in it."""
        if tensors is None and _has_tensors(value):
            raise JobError(f"{what} is a tensor, which is not written for Megatron-FSDP: its groups have numbers", do=DO)
        key = f"{value!r} {tensors}"
        if key not in self._items:
            saved = torch_zip_bytes(value, "archive", tensors or {})
            self._items[key] = Item(self._file, len(self._data), len(saved))
            self._data += saved
        return self._items[key]


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, TensorSpec) or (isinstance(value, list | tuple) and any(map(_has_tensors, value)))


class StateWords:
    """What an optimizer and its schedule keep beside tensors, by torch_dist's words of them; `wrappers` stand before a weight's key.

    Raises JobError for words of an optimizer that has another form than Megatron-FSDP's, or tensors.
    """

    def __init__(self, training: Training, wrappers: str, *, decayed_norms: bool) -> None:
        optimizers = [each for each in optimizers_of(training.common[OPTIMIZER]) if each]
        others = sorted({str(each.get(SHARDING)) for each in optimizers} - {FULLY})
        if others:
            raise JobError(f"the optimizer's state is of the form {', '.join(others)}, and Megatron-FSDP's optimizer is distributed", do=DO)
        self._groups = Groups(groups_of(training.common[OPTIMIZER]), training.groups, decayed_norms=decayed_norms)
        self._wrappers, self._common = wrappers, training.common
        self._scaled = any("grad_scaler" in each for each in optimizers)
        self._fields: dict[int, list[tuple[str, Item]]] = {}

    def notes(self) -> list[Note]:
        """What is not kept: Megatron-FSDP saves no loss scale (core 0.16.1, distrib_optimizer.py, sharded_state_dict)."""
        text = "the loss scale is not kept: Megatron-FSDP saves none, and training begins with its first one again"
        return [Note("lost", text)] if self._scaled else []

    def add_to(self, objects: Objects, tensors: Mapping[str, Chunked]) -> dict[str, Chunked]:
        """Adds the words, those of a group to every weight that has moments among `tensors`; steps that are tensors."""
        for name, value in self._common.items():
            if name not in (OPTIMIZER, "content_metadata"):
                objects.add((name,), value)
        steps: dict[str, Chunked] = {}
        for key, shape in _weights(tensors, self._wrappers):
            group = self._groups.of(key, shape)
            name = self._wrappers + (key[:-2] if FSDP_HALF.fullmatch(key) else key)
            for field, item in self._fields_of(group, objects):
                objects.place((*GROUP, name, field), item)
            if is_of_torch(group):
                steps[moment_name(self._wrappers, STEP, key)] = _step(group, objects)
        return steps

    def _fields_of(self, group: Group, objects: Objects) -> list[tuple[str, Item]]:
        """Where the values of a group's fields lie. torch's Adam has its step apart."""
        made = self._fields.get(id(group))
        if made is None:
            names = [name for name in group if name != STEP or not is_of_torch(group)]
            made = self._fields[id(group)] = [(name, objects.item(group[name], f"{name} of a group")) for name in names]
        return made


def _weights(tensors: Mapping[str, Chunked], wrappers: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys of what has moments, and their shapes."""
    before, after = ".".join((*STATE, wrappers)), f".{MOMENTS[0]}"
    for name, chunked in tensors.items():
        if name.startswith(before) and name.endswith(after):
            yield name[len(before) : -len(after)], chunked.shape


def _step(group: Group, objects: Objects) -> Chunked:
    """One number for all weights of a group: what is of no dimension lies where all others do."""
    step = group.get(STEP)
    if type(step) not in (int, float):
        raise SourceError(f"a group of torch's Adam says the step {step!r}", do="save the checkpoint again, or " + DO)
    data = struct.pack("<f", step)
    return Chunked("F32", (), (Chunk(Box((), ()), objects.item(TensorSpec("", "F32", ()), STEP, {"": data})),))


def path_of(name: str) -> Path:
    """Where a tensor stands in the state dict: a weight, or what an optimizer keeps of one.

    >>> path_of("model.module.output_layer.weight"), path_of("optimizer.state.module.module.output_layer.weight.exp_avg")
    (('model', 'module.output_layer.weight'), ('optimizer', 'state', 'module.module.output_layer.weight', 'exp_avg'))
    """
    model = PREFIX.partition(".")[0]
    if name.startswith(f"{model}."):
        return model, name.removeprefix(f"{model}.")
    weight, _, kind = name.removeprefix(".".join((*STATE, ""))).rpartition(".")
    return *STATE, weight, kind
