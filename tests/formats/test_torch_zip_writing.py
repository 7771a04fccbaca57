"""Our own torch files, as torch.load, unzip and zipfile see them."""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.errors import TargetError
from convsvc.formats import torch_zip
from convsvc.formats.base import Global, Inert, TensorSpec
from convsvc.formats.regular_file import open_regular
from convsvc.formats.zip.crc import crc32, crc32_zeros
from convsvc.formats.zip.reader import read_directory
from convsvc.formats.zip.writer import descriptor, directory, directory_bytes, lay_out, local_header

GIB = 1 << 30


def spec(dtype="F32", shape=(2,)):
    return TensorSpec("", dtype, shape)


def load(path, **options):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True, **options)


@pytest.fixture
def written(tmp_path, write_planned):
    """The file of a tree with zeros as tensors."""

    def write(tree, **options):
        skeleton = torch_zip.plan_skeleton(tree, archive="model", **options)
        write_planned(tmp_path / "model.pt", torch_zip, skeleton, {t.name: bytes(t.size_bytes) for t in skeleton.tensors})
        return tmp_path / "model.pt"

    return write


def megatron_tree():
    args = argparse.Namespace(num_layers=4, params_dtype=Global("torch", "bfloat16"), eps=1e-6, sizes=[1, 2], none=None)
    model = {"decoder.weight": spec("BF16", (3, 5)), "decoder.empty": spec("F32", (0, 4)), "bias": spec("F32", ())}
    return {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": model}


def test_torch_loads_a_megatron_file_of_ours_with_weights_only_and_mmap(written):
    path = written(megatron_tree())
    for options in ({}, {"mmap": True}):
        read = load(path, **options)
        assert read["args"] == argparse.Namespace(num_layers=4, params_dtype=torch.bfloat16, eps=1e-6, sizes=[1, 2], none=None)
        assert (read["checkpoint_version"], read["iteration"]) == (3.0, 1)
        assert {name: (tensor.dtype, tuple(tensor.shape), tensor.stride()) for name, tensor in read["model"].items()} == {
            "decoder.weight": (torch.bfloat16, (3, 5), (5, 1)),
            "decoder.empty": (torch.float32, (0, 4), (4, 1)),
            "bias": (torch.float32, (), ()),
        }


def test_the_unrestricted_unpickler_reads_the_same(written):
    assert torch.load(written(megatron_tree()), weights_only=False)["args"].params_dtype is torch.bfloat16


def test_unzip_and_zipfile_find_every_checksum_right(written):
    path = written(megatron_tree())
    assert shutil.which("unzip"), "unzip is not installed"
    done = subprocess.run(["unzip", "-t", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "No errors detected" in done.stdout) == (0, True), done.stdout + done.stderr
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = ["model/data.pkl", "model/byteorder", "model/data/0", "model/data/1", "model/data/2", "model/version"]
        assert archive.namelist() == names


def test_a_wrong_checksum_is_found_by_zipfile(tmp_path, write_planned):
    skeleton = torch_zip.plan_skeleton({"w": spec()}, archive="model")
    write_planned(tmp_path / "model.pt", torch_zip, skeleton, {"w": b"12345678"})
    with (tmp_path / "model.pt").open("r+b") as file:
        file.seek(skeleton.tensors[0].file_offset)
        file.write(b"x")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        assert archive.testzip() == "model/data/0"


@pytest.mark.parametrize("align", [1, 64, 4096, 32768])
def test_every_tensor_lies_at_a_multiple_of_the_alignment(written, align):
    path = written({f"w{number}": spec("U8", (number,)) for number in range(20)}, align=align)
    index = torch_zip.read_index(path)
    assert all(tensor.file_offset % align == 0 for tensor in index.tensors)
    assert len(load(path)) == 20


@pytest.mark.parametrize("align", [0, 48, 65536, -4096])
def test_an_alignment_the_padding_field_cannot_make_is_refused(align):
    with pytest.raises(TargetError, match="aligned to"):
        torch_zip.plan_skeleton({}, archive="model", align=align)


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**90), 2**90) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner, max_size=4)
        | st.dictionaries(st.from_regex(r"\A[a-z]{1,5}\Z"), inner, max_size=3).map(lambda names: argparse.Namespace(**names))
    ),
    max_leaves=15,
)


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(st.text(max_size=4), trees, max_size=4))
def test_any_tree_of_plain_values_is_read_alike_by_torch_and_by_us(tree, tmp_path_factory, write_planned):
    path = tmp_path_factory.mktemp("tree") / "model.pt"
    write_planned(path, torch_zip, torch_zip.plan_skeleton(tree, archive="model"), {})
    assert load(path) == tree
    assert torch_zip.read_index(path).tree == tree


def test_not_a_number_survives_as_a_value(written):
    assert math.isnan(load(written({"nan": math.nan}))["nan"])


def test_a_tree_of_many_entries_is_written_in_batches(written):
    tree = {"list": list(range(2500)), "dict": {str(number): number for number in range(2500)}}
    assert load(written(tree)) == tree


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"bytes", "a/0: it is of type bytes"),
        (Inert("megatron.core.enums", "ModelType", (1,)), "a/0: it is of type Inert"),
        (Global("os", "system"), "a/0: it is of type Global"),
        (1 << 3000, "a/0: it is of type integer of over"),
        ({(1, 2): 3}, "a/0: it has a key that is a tuple"),
        (TensorSpec("w", "X9", ()), r"a/0: it \(w\) has the dtype X9"),
    ],
)
def test_what_torch_would_not_load_is_refused_by_its_path(value, text):
    with pytest.raises(TargetError, match=text):
        torch_zip.plan_skeleton({"a": [value]}, archive="model")


def test_a_tree_that_contains_itself_is_refused():
    tree = {}
    tree["a"] = tree
    with pytest.raises(TargetError, match="contains itself"):
        torch_zip.plan_skeleton(tree, archive="model")


def test_two_tensors_with_one_path_are_refused():
    with pytest.raises(TargetError, match="have a path that another has"):
        torch_zip.plan_skeleton({"a/b": spec(), "a": {"b": spec()}}, archive="model")


def test_a_file_cannot_be_sealed_before_all_tensors_are_written():
    skeleton = torch_zip.plan_skeleton({"a": spec(), "b": spec()}, archive="model")
    with pytest.raises(TargetError, match="1 tensors have no checksum"):
        torch_zip.seal(skeleton, {"a": 0})


def test_the_same_tree_gives_the_same_bytes():
    first, second = (torch_zip.plan_skeleton(megatron_tree(), archive="model") for _ in range(2))
    assert first == second
    crcs = {tensor.name: 1 for tensor in first.tensors}
    assert torch_zip.seal(first, crcs) == torch_zip.seal(second, crcs)


@pytest.fixture
def sparse(tmp_path):
    """A file of zeros that takes no room on the disk: only segments and seal are written."""

    def write(tree):
        skeleton = torch_zip.plan_skeleton(tree, archive="model")
        crcs = {tensor.name: crc32_zeros(tensor.size_bytes) for tensor in skeleton.tensors}
        with (tmp_path / "model.pt").open("wb") as file:
            file.truncate(skeleton.size_bytes)
            for offset, data in (*skeleton.segments, *torch_zip.seal(skeleton, crcs)):
                file.seek(offset)
                file.write(data)
        if os.stat(tmp_path / "model.pt").st_blocks * 512 > GIB:
            pytest.skip("the temporary directory keeps no sparse files")
        return tmp_path / "model.pt", skeleton

    return write


def test_a_file_over_4_gib_has_zip64_forms_that_all_readers_know(sparse):
    path, skeleton = sparse({"large": spec("BF16", (5 * GIB // 2,)), "small": spec("I32", (3,)), "last": spec("F32", (2,))})
    last = skeleton.tensors[-1]
    assert last.file_offset > 5 * GIB
    with path.open("r+b") as file:
        file.seek(last.file_offset)
        file.write(torch.tensor([1.5, -2.0]).numpy().tobytes())
    with zipfile.ZipFile(path) as archive:
        assert [record.file_size for record in archive.infolist()][2:5] == [5 * GIB, 12, 8]
        assert archive.read("model/data/1") == bytes(12)
    assert torch_zip.read_index(path).tensors == skeleton.tensors
    read = load(path, mmap=True)
    assert read["last"].tolist() == [1.5, -2.0]
    assert read["large"].numel() == 5 * GIB // 2


def test_reading_the_index_of_a_large_file_reads_no_tensor(sparse):
    path, _ = sparse({f"w{number}": spec("BF16", (GIB,)) for number in range(20)})
    before = bytes_read()
    assert len(torch_zip.read_index(path).tensors) == 20
    assert bytes_read() - before < 1 << 20


def bytes_read() -> int:
    """What this process has read from files so far, from the page cache too."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_more_than_65535_records_need_zip64_counts(tmp_path):
    slots = lay_out([(f"m/data/{number}", 0, 1) for number in range(65_536)])
    path = tmp_path / "many.pt"
    path.write_bytes(b"".join(local_header(slot) for slot in slots) + directory(slots))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 65_536
    with open_regular(path) as file:
        assert [record.data_offset for record in read_directory(file).values()] == [slot.data_offset for slot in slots]


@pytest.mark.parametrize("count", [0, 1, 0xFFFE, 0xFFFF])
def test_the_size_of_the_directory_is_known_before_its_checksums(count):
    slots = lay_out([(f"r{number}", 1, 1) for number in range(count)])
    assert len(directory(slots)) == directory_bytes(slots)


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000])
def test_the_size_of_the_directory_is_known_at_the_edge_of_4_gib(size):
    slots = lay_out([("a", size, 64), ("b", 1, 64)])
    assert len(directory(slots)) == directory_bytes(slots)


@pytest.mark.parametrize("size", [0, 1, 0xFFFFFFFE, 0xFFFFFFFF])
def test_nothing_before_a_streamed_record_depends_on_its_content(size):
    """So that who writes from the beginning to the end can hash on the way; its checksum is behind it and in the directory."""
    slots = lay_out([("a", size, 64), ("b", 1, 64)], streamed={"a"})
    first, other = slots[0], slots[0].with_crc(0x12345678)
    assert local_header(first) == local_header(other)
    assert (descriptor(first) == descriptor(other), directory(slots) == directory([other, slots[1]])) == (False, False)
    assert first.stop == first.data_stop + len(descriptor(first)) == slots[1].header_offset
    assert len(directory(slots)) == directory_bytes(slots)


def test_zipfile_and_our_reader_find_a_streamed_record_and_its_checksum(tmp_path):
    slots = [
        slot.with_crc(crc32(data)) for slot, data in zip(lay_out([("a", 5, 64), ("b", 4, 64)], {"a"}), (b"12345", b"6789"), strict=True)
    ]
    path = tmp_path / "streamed.zip"
    around = [(slot.header_offset, local_header(slot) + data) for slot, data in zip(slots, (b"12345", b"6789"), strict=True)]
    written = bytearray(slots[-1].stop)
    for start, data in (*around, (slots[0].data_stop, descriptor(slots[0]))):
        written[start : start + len(data)] = data
    path.write_bytes(bytes(written) + directory(slots))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("a") == b"12345"
    with open_regular(path) as file:
        assert [record.data_offset for record in read_directory(file).values()] == [slot.data_offset for slot in slots]
