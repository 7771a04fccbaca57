"""Where everything of a new torch zip file lies, before a tensor of it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from convsvc.errors import TargetError
from convsvc.formats.base import Skeleton, StoredTensor
from convsvc.formats.pickle.writer import write_torch_pickle
from convsvc.formats.zip.crc import crc32
from convsvc.formats.zip.writer import MAX_ALIGN, RecordPlace, descriptor, directory, directory_bytes, lay_out, local_header

_SMALL_ALIGN = 64  # torch's own alignment of every record


@dataclass(frozen=True, slots=True)
class TorchZipSeal:
    """What `seal` needs: all records in their order, and for each the name of its tensor (None for a record written already)."""

    slots: tuple[RecordPlace, ...]
    tensor_names: tuple[str | None, ...]


def torch_zip_bytes(tree: Any, archive: str, tensors: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """A whole torch file of a value, with the bytes of those few tensors that stand in it, by their paths. Pure.

    Raises TargetError for a tensor whose bytes are not there.
    """
    skeleton = plan_torch_zip(tree, archive, _SMALL_ALIGN)
    without = [tensor.name for tensor in skeleton.tensors if len(tensors.get(tensor.name, b"")) != tensor.size_bytes]
    if without:
        raise TargetError(f"{len(without)} tensors stand in what should have none", facts=without[:10], do="write it as a file of tensors")
    data = bytearray(skeleton.size_bytes)
    held = [(tensor.file_offset, tensors[tensor.name]) for tensor in skeleton.tensors if tensor.size_bytes]
    crcs = {tensor.name: crc32(tensors[tensor.name]) for tensor in skeleton.tensors if tensor.size_bytes}
    for offset, part in (*skeleton.segments, *held, *seal_torch_zip(skeleton.seal_state, crcs)):
        data[offset : offset + len(part)] = part
    return bytes(data)


def plan_torch_zip(tree: Any, archive: str, align: int, *, streamed: bool = False) -> Skeleton:
    """The skeleton of a torch file that holds `tree`; see `torch_zip.plan_skeleton`. Pure.

    `streamed`: a tensor's checksum stands behind it, as torch.save writes it, so that all that depends on a tensor follows it.
    """
    if not archive or "/" in archive:
        raise TargetError(f"{archive!r} cannot be the folder inside a torch file")
    if not _is_power_of_two(align) or align > MAX_ALIGN:
        raise TargetError(f"tensors cannot be aligned to {align} bytes; a power of two up to {MAX_ALIGN} can")
    pickle, tensors = write_torch_pickle(tree)
    small = {f"{archive}/data.pkl": pickle, f"{archive}/byteorder": b"little", f"{archive}/version": b"3\n"}
    records = [(name, len(data), _SMALL_ALIGN) for name, data in small.items()]
    records[-1:-1] = [(f"{archive}/data/{number}", spec.size_bytes, align) for number, (_, spec) in enumerate(tensors)]
    names = frozenset(name for name, _, _ in records if name not in small) if streamed else ()
    slots = tuple(slot.with_crc(crc32(small.get(slot.name, b""))) for slot in lay_out(records, names))
    stored = [StoredTensor(name, spec.dtype, spec.shape, slot.data_offset) for (name, spec), slot in zip(tensors, slots[2:-1], strict=True)]
    _check_names(stored)
    segments = [(slot.header_offset, local_header(slot) + small.get(slot.name, b"")) for slot in slots if streamed or slot.name in small]
    state = TorchZipSeal(slots, (None, None, *(tensor.name for tensor in stored), None))
    return Skeleton(slots[-1].stop + directory_bytes(slots), tuple(stored), tuple(segments), state)


def seal_torch_zip(state: TorchZipSeal, crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
    """The tensors' local headers, or what stands behind those that are streamed, the central directory and the end records. Pure."""
    missing = [name for name, slot in _tensor_slots(state) if slot.size_bytes and name not in crcs]
    if missing:
        raise TargetError(f"{len(missing)} tensors have no checksum", facts=missing[:10], do="write them before the file is sealed")
    slots = tuple(
        slot if name is None else slot.with_crc(crcs.get(name, 0)) for slot, name in zip(state.slots, state.tensor_names, strict=True)
    )
    around = [
        (slot.data_stop, descriptor(slot)) if slot.streamed else (slot.header_offset, local_header(slot))
        for slot, name in zip(slots, state.tensor_names, strict=True)
        if name is not None
    ]
    return (*around, (slots[-1].stop, directory(slots)))


def _tensor_slots(state: TorchZipSeal) -> list[tuple[str, RecordPlace]]:
    return [(name, slot) for name, slot in zip(state.tensor_names, state.slots, strict=True) if name is not None]


def _check_names(tensors: list[StoredTensor]) -> None:
    twice = [name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1]
    if twice:
        raise TargetError(f"{len(twice)} tensors have a path that another has too", facts=twice[:10])


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
