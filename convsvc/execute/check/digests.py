"""CRC-32 of what was written, region by region, joined to one a tensor without reading it again.

A region is a byte range of a stored tensor. Tasks write regions in any order; the marks they leave carry the digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from convsvc.errors import VerifyError
from convsvc.formats.base import Skeleton
from convsvc.formats.zip.crc import combine, crc32, crc32_zeros

# Regions of one tensor, after so many new ones they are joined where they can be, so that memory stays small.
JOIN_EVERY = 1 << 16


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes `start` .. `start + size_bytes` of a tensor, and their CRC-32."""

    start: int
    size_bytes: int
    crc: int

    @property
    def stop(self) -> int:
        return self.start + self.size_bytes

    def joined(self, following: Region) -> Region:
        """This region and the one that begins where it ends, as one."""
        return Region(self.start, self.size_bytes + following.size_bytes, combine(self.crc, following.crc, following.size_bytes))


class Digests:
    """The regions of each tensor, by the tensor's number. Regions that follow on each other are joined as they come."""

    def __init__(self) -> None:
        self._regions: dict[int, list[Region]] = {}
        self._next_join: dict[int, int] = {}

    def add(self, tensor: int, region: Region) -> None:
        regions = self._regions.setdefault(tensor, [])
        if regions and regions[-1].stop == region.start:
            regions[-1] = regions[-1].joined(region)
        else:
            regions.append(region)
            if len(regions) >= self._next_join.get(tensor, JOIN_EVERY):
                self._regions[tensor] = joined_regions(regions)
                self._next_join[tensor] = len(self._regions[tensor]) + JOIN_EVERY

    def as_json(self) -> dict[str, list[list[int]]]:
        """{tensor number: [[start, size_bytes, crc], ...]}"""
        return {str(tensor): [[r.start, r.size_bytes, r.crc] for r in joined_regions(regions)] for tensor, regions in self._regions.items()}

    def update_from_json(self, data: dict[str, list[list[int]]]) -> None:
        for tensor, regions in data.items():
            for start, size_bytes, crc in regions:
                self.add(int(tensor), Region(start, size_bytes, crc))

    def whole(self, tensor: int, size_bytes: int, name: str) -> int:
        """The CRC-32 of the whole tensor.

        Raises VerifyError where the regions leave a gap or overlap: then some bytes were never written, or twice.
        """
        return join(self._regions.get(tensor, ()), size_bytes, name)


def whole_file(skeleton: Skeleton, sealed: Iterable[tuple[int, bytes]], crcs: Mapping[str, int]) -> int:
    """The CRC-32 of a whole new file: its header and seal, its tensors (their CRC-32 by name), zeros between them. Pure.

    >>> from convsvc.formats.base import StoredTensor
    >>> skeleton = Skeleton(12, (StoredTensor("w", "U8", (4,), 6),), ((0, b"head"),))
    >>> whole_file(skeleton, [(10, b"en")], {"w": crc32(b"1234")}) == crc32(b"head" + bytes(2) + b"1234" + b"en")
    True
    """
    parts = {start: (len(data), crc32(data)) for start, data in (*skeleton.segments, *sealed)}
    parts |= {each.file_offset: (each.size_bytes, crcs[each.name]) for each in skeleton.tensors if each.size_bytes}
    crc = stop = 0
    for start, (size_bytes, part) in sorted(parts.items()):
        if start > stop:
            crc = combine(crc, _zeros(start - stop), start - stop)
        crc, stop = combine(crc, part, size_bytes), start + size_bytes
    return combine(crc, _zeros(skeleton.size_bytes - stop), skeleton.size_bytes - stop)


@lru_cache(maxsize=1024)
def _zeros(size_bytes: int) -> int:
    return crc32_zeros(size_bytes)


def joined_regions(regions: Iterable[Region]) -> list[Region]:
    """The regions in order, those that follow on each other as one."""
    joined: list[Region] = []
    for region in sorted(regions, key=lambda region: (region.start, region.stop)):
        if joined and joined[-1].stop == region.start:
            joined[-1] = joined[-1].joined(region)
        else:
            joined.append(region)
    return joined


def join(regions: Iterable[Region], size_bytes: int, name: str) -> int:
    """The CRC-32 of regions that cover `size_bytes` exactly, in any order."""
    stop, crc = 0, 0
    for region in joined_regions(regions):
        if region.start != stop:
            raise _uncovered(name, stop, region.start)
        stop, crc = region.stop, region.crc
    if stop != size_bytes:
        raise _uncovered(name, stop, size_bytes)
    return crc


def _uncovered(name: str, written: int, expected: int) -> VerifyError:
    how = "never written" if written < expected else "written twice"
    return VerifyError(
        f"tensor {name}: bytes {min(written, expected)}:{max(written, expected)} were {how}",
        do="remove the staging directory and run the job again",
        details={"tensor": name, "start": min(written, expected), "stop": max(written, expected)},
    )
