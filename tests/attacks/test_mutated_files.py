"""Valid files with some bytes changed, cut out, or repeated: read, or refused with a FormatError, never anything else.

What stops it: every number of a file is checked before it is used; `formats/` has no other error for a bad file.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.errors import FormatError
from convsvc.formats import FORMATS, format_of, torch_zip
from convsvc.formats.pickle.reader import read_pickle

mutations = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.binary(max_size=9) | st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(4), b"PK\x05\x06"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=6,
)
quick = settings(max_examples=250, deadline=None)


def mutated(data: bytes, changes) -> bytes:
    for place, new, removed in changes:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + removed :]
    return data


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.bfloat16), "c": torch.zeros(0, 3)}
    safetensors.torch.save_file(tensors, folder / "safetensors")
    torch.save({"args": argparse.Namespace(x=1), "model": OrderedDict(tensors), "dtype": torch.float16, "s": {1}}, folder / "torch_zip")
    return folder


@quick
@given(changes=mutations)
@pytest.mark.parametrize("name", ["safetensors", "torch_zip"])
def test_a_changed_file_is_read_or_refused(originals, name, changes):
    path = originals / f"{name}.changed"
    path.write_bytes(mutated((originals / name).read_bytes(), changes))
    with contextlib.suppress(FormatError):
        format_of(path)
    with contextlib.suppress(FormatError):
        index = FORMATS[name].read_index(path)
        assert all(t.file_offset + t.size_bytes <= index.size_bytes for t in index.tensors)


@settings(max_examples=400, deadline=None)
@given(changes=mutations)
def test_a_changed_pickle_is_read_or_refused(originals, changes):
    path = originals / "pickle.changed"
    pickle = torch_zip.plan_skeleton({"args": argparse.Namespace(x=[1, (2.5, "a")], y={"z": None})}, archive="m").segments[0][1]
    data = mutated(pickle[pickle.index(b"\x80\x02") :], changes)
    with contextlib.suppress(FormatError):
        read_pickle(data, str(path), {}, lambda pid: pid)


OPCODES = st.sampled_from(
    [bytes([code]) for code in range(256)] + [b"cargparse\nNamespace\n", b"K\x01", b"X\x01\x00\x00\x00a", b"q\x00", b"h\x00"]
)


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(OPCODES, max_size=40))
def test_any_run_of_opcodes_is_read_or_refused(parts):
    with contextlib.suppress(FormatError):
        read_pickle(b"\x80\x02" + b"".join(parts) + b".", "x.pt", {}, lambda pid: pid)
