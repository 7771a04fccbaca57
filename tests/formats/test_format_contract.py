"""What holds for every file format, tested against the library that users have."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from itertools import pairwise
from math import prod
from types import ModuleType
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convsvc.errors import FormatError
from convsvc.formats import FORMATS, format_of, torch_zip
from convsvc.formats import safetensors as safetensors_format
from convsvc.formats.base import Skeleton, TensorSpec
from convsvc.tensors.dtypes import SIZES

SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (5, 3), (1, 1, 4), (2, 3, 4, 5))
SPECIAL = bytes.fromhex("0000c07f 0000807f 000080ff 01000080 ffffffff 00000000 c07f807f 80ff0100")  # NaN, infinities, -0, in many dtypes


def content(spec: TensorSpec, seed: int) -> bytes:
    """Bytes for a tensor: random, with the patterns of NaN and infinity; a bool has only two."""
    source = random.Random(f"{spec.name}{seed}")
    if spec.dtype == "BOOL":
        return bytes(source.choice((0, 1)) for _ in range(spec.size_bytes))
    return (SPECIAL + source.randbytes(spec.size_bytes))[: spec.size_bytes]


specs = st.lists(
    st.builds(
        TensorSpec,
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12),
        st.sampled_from(sorted(SIZES)),
        st.lists(st.integers(0, 5), max_size=4).map(tuple),
    ),
    max_size=8,
    unique_by=lambda spec: spec.name,
)
# The fixtures keep nothing between examples, and the subclasses only say whose library is meant.
_FINE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
few = settings(max_examples=40, deadline=None, suppress_health_check=_FINE)


class FormatContract:
    """The tests; a format gives its module and how its own library writes and reads a flat table of tensors."""

    module: ClassVar[ModuleType]
    name: ClassVar[str]

    def plan(self, tensors: list[TensorSpec]) -> Skeleton:
        raise NotImplementedError

    def library_write(self, path: Any, tensors: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError

    def library_read(self, path: Any) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def every_spec(self) -> list[TensorSpec]:
        return [TensorSpec(f"{tag}.{number}", tag, shape) for tag in SIZES for number, shape in enumerate(SHAPES)]

    def test_a_file_we_lay_out_is_read_by_the_library_bit_for_bit(self, tmp_path, write_planned, bits_of, torch_dtypes):
        wanted = self.every_spec()
        contents = {spec.name: content(spec, 1) for spec in wanted}
        write_planned(tmp_path / "file", self.module, self.plan(wanted), contents)
        read = self.library_read(tmp_path / "file")
        assert set(read) == set(contents)
        for spec in wanted:
            assert (read[spec.name].dtype, tuple(read[spec.name].shape)) == (torch_dtypes[spec.dtype], spec.shape)
            assert bits_of(read[spec.name]) == contents[spec.name]

    def test_a_file_of_the_library_is_indexed_with_the_same_bytes(self, tmp_path, tensor_of):
        contents = {spec.name: (spec, content(spec, 2)) for spec in self.every_spec()}
        self.library_write(tmp_path / "file", {name: tensor_of(s.dtype, s.shape, data) for name, (s, data) in contents.items()})
        index = self.module.read_index(tmp_path / "file")
        raw = (tmp_path / "file").read_bytes()
        assert {tensor.name for tensor in index.tensors} == set(contents)
        for tensor in index.tensors:
            spec, data = contents[tensor.name]
            assert (tensor.dtype, tensor.shape) == (spec.dtype, spec.shape)
            assert raw[tensor.file_offset : tensor.file_offset + tensor.size_bytes] == data

    def test_the_index_of_a_planned_file_is_its_skeleton(self, tmp_path, write_planned):
        wanted = self.every_spec()
        skeleton = self.plan(wanted)
        write_planned(tmp_path / "file", self.module, skeleton, {spec.name: bytes(spec.size_bytes) for spec in wanted})
        index = self.module.read_index(tmp_path / "file")
        assert {tensor.name: tensor for tensor in index.tensors} == {tensor.name: tensor for tensor in skeleton.tensors}
        assert index.size_bytes == skeleton.size_bytes
        assert dict(index.tree) == {tensor.name: tensor for tensor in index.tensors}

    @few
    @given(wanted=specs, seed=st.integers(0, 9))
    def test_any_table_of_tensors_survives_our_writer_and_the_library(self, wanted, seed, tmp_path, write_planned, bits_of, tensor_of):
        contents = {spec.name: content(spec, seed) for spec in wanted}
        write_planned(tmp_path / "ours", self.module, self.plan(wanted), contents)
        read = self.library_read(tmp_path / "ours")
        assert {name: bits_of(tensor) for name, tensor in read.items()} == contents
        self.library_write(tmp_path / "theirs", {s.name: tensor_of(s.dtype, s.shape, contents[s.name]) for s in wanted})
        raw = (tmp_path / "theirs").read_bytes()
        found = self.module.read_index(tmp_path / "theirs").tensors
        assert {t.name: raw[t.file_offset : t.file_offset + prod(t.shape) * SIZES[t.dtype]] for t in found} == contents

    def test_the_first_tensor_can_be_written_with_direct_io(self):
        skeleton = self.plan([TensorSpec("w", "BF16", (2, 3))])
        assert skeleton.tensors[0].file_offset % 4096 == 0

    def test_segments_tensors_and_seal_never_touch_each_other(self):
        skeleton = self.plan(self.every_spec())
        spans = [(offset, offset + len(data)) for offset, data in skeleton.segments]
        spans += [(t.file_offset, t.file_offset + t.size_bytes) for t in skeleton.tensors if t.size_bytes]
        spans += [(offset, offset + len(data)) for offset, data in self.module.seal(skeleton, {t.name: 0 for t in skeleton.tensors})]
        spans.sort()
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
        assert spans[-1][1] == skeleton.size_bytes

    def test_a_file_is_known_by_its_first_bytes_and_not_by_its_suffix(self, tmp_path):
        self.library_write(tmp_path / "file.txt", {"w": torch.ones(2)})
        assert format_of(tmp_path / "file.txt") == self.name
        assert FORMATS[self.name] is self.module

    def test_what_is_not_a_file_is_named_in_the_error(self, tmp_path):
        (tmp_path / "empty").touch()
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        wanted = {"missing": "No such file", "empty": "is empty", "fifo": "is a FIFO", "loop": "symbolic links", ".": "is a directory"}
        for name, text in wanted.items():
            with pytest.raises(FormatError, match=text) as caught:
                self.module.read_index(tmp_path / name)
            assert str(tmp_path) in str(caught.value)
        with pytest.raises(FormatError, match="is a device"):
            self.module.read_index("/dev/zero")

    def test_a_symbolic_link_to_a_file_is_followed(self, tmp_path):
        self.library_write(tmp_path / "blob", {"w": torch.ones(2)})
        (tmp_path / "link").symlink_to("blob")
        assert [tensor.name for tensor in self.module.read_index(tmp_path / "link").tensors] == ["w"]

    def test_a_file_of_another_format_is_called_by_its_name(self, tmp_path):
        kinds = {
            "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a GGUF file": b"GGUF" + bytes(20),
            "of no format that convsvc knows": bytes(range(64)),
        }
        for what, head in kinds.items():
            (tmp_path / "file").write_bytes(head)
            assert format_of(tmp_path / "file") is None
            with pytest.raises(FormatError, match=what):
                self.module.read_index(tmp_path / "file")


class TestSafetensors(FormatContract):
    module = safetensors_format
    name = "safetensors"

    def plan(self, tensors):
        return safetensors_format.plan_skeleton(tensors)

    def library_write(self, path, tensors):
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    def library_read(self, path):
        return safetensors.torch.load_file(path)


class TestTorchZip(FormatContract):
    module = torch_zip
    name = "torch_zip"

    def plan(self, tensors):
        return torch_zip.plan_skeleton({spec.name: spec for spec in tensors}, archive="file")

    def library_write(self, path, tensors):
        torch.save(tensors, path)

    def library_read(self, path):
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, weights_only=True, mmap=True)


def test_importing_the_formats_imports_neither_torch_nor_numpy():
    code = "import sys, convsvc.formats; print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
