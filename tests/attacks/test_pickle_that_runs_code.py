"""A checkpoint whose pickle runs a command, opens a file, or imports a module when it is loaded.

What stops it: nothing a pickle names is imported or called. Names that only an attack needs (`formats/pickle_globals.py`) refuse
the whole file; every other name becomes an inert record.
"""

# ruff: noqa: SIM905  (a paragraph of names can be read)
from __future__ import annotations

import os
import pickle
import sys

import pytest
import torch

from convsvc.errors import FormatError, HostileFile
from convsvc.formats.base import Global, Inert
from convsvc.formats.torch_zip import read_index


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_os_system_is_refused_and_not_run(refused, tmp_path, protocol):
    mark = tmp_path / "was_run"
    error = refused(pickle.dumps({"w": Runs(os.system, f"touch {mark}")}, protocol), HostileFile)
    assert "posix.system" in str(error)
    assert error.details["global"] == "posix.system"
    assert not mark.exists()


def test_a_file_of_torch_save_with_a_reduce_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "was_run"
    torch.save({"model": {"w": torch.ones(2)}, "args": Runs(exec, f"open({str(mark)!r}, 'w')")}, tmp_path / "model.pt")
    with pytest.raises(HostileFile, match=r"builtins\.exec"):
        read_index(tmp_path / "model.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    """os.system posix.system nt.system subprocess.Popen sys.exit builtins.eval builtins.exec builtins.open builtins.__import__
    builtins.compile __builtin__.eval builtins.globals builtins.setattr importlib.import_module runpy.run_path pickle.loads
    _pickle.loads cPickle.loads shutil.rmtree socket.create_connection ctypes.CDLL code.interact operator.attrgetter
    _operator.methodcaller functools.reduce types.FunctionType types.CodeType pty.spawn webbrowser.open asyncio.run
    multiprocessing.Process multiprocessing.util.spawnv_passfds torch.hub.load torch.jit.load torch.load torch.serialization.load
    torch.storage._load_from_bytes torch.utils.cpp_extension.load numpy.f2py.main numpy.testing._private.utils.runstring
    numpy.load io.open _io.FileIO tempfile.mktemp pip.main timeit.timeit pdb.run bdb.Bdb cProfile.run marshal.loads
    logging.config.listen codecs.open copyreg.add_extension builtins.type.__subclasses__ argparse.Namespace.__init__.__globals__
    torch._utils._rebuild_tensor_v2.__globals__ collections.OrderedDict.__reduce__ pathlib.Path.unlink""".split(),
)
def test_names_that_only_attacks_need_refuse_the_file_even_uncalled(refused, name):
    module, _, attribute = name.rpartition(".")
    for split in ((module, attribute), (name.split(".")[0], name.partition(".")[2])):
        by_line = b"\x80\x02c" + f"{split[0]}\n{split[1]}\n".encode() + b"."
        by_stack = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in split) + b"\x93."
        for data in (by_line, by_stack):
            assert "asks to run code" in refused(data, HostileFile).message


@pytest.mark.parametrize(
    "args",
    [
        b"cargparse\nNamespace\nX\x0b\x00\x00\x00__globals__",
        b"cbuiltins\nset\nX\x03\x00\x00\x00pop",
        b"X\x01\x00\x00\x00aX\x04\x00\x00\x00join",
        b"ctorch\nTensor\nX\x03\x00\x00\x00a.b",
        b"NN",
    ],
    ids=["dunder", "of a builtin", "of a value", "a path", "of nothing"],
)
def test_getattr_gives_no_way_up(refused, args):
    error = refused(b"\x80\x02cbuiltins\ngetattr\n" + args + b"\x86R.", HostileFile)
    assert error.details["global"] in ("builtins.getattr", "argparse.Namespace.__globals__")


def test_getattr_of_an_enum_names_its_member_and_calls_nothing(pt_with):
    data = b"\x80\x02}X\x01\x00\x00\x00kcbuiltins\ngetattr\ncmegatron.core.enums\nModelType\nX\x04\x00\x00\x00bert\x86Rs."
    kind = read_index(pt_with(data)).tree["k"]
    assert (type(kind), kind.module, kind.name) == (Global, "megatron.core.enums", "ModelType.bert")


def test_a_module_named_by_a_pickle_is_never_imported(pt_with, tmp_path, monkeypatch):
    (tmp_path / "trojan_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    record = read_index(pt_with(b"\x80\x02}X\x01\x00\x00\x00kctrojan_module\nThing\n)Rs.")).tree["k"]
    assert (type(record), record.args) == (Inert, ())
    assert "trojan_module" not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"(ios\nsystem\n.", id="INST"),
        pytest.param(b"\x80\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aK\x01sb.", id="attributes of a class"),
        pytest.param(b"\x80\x02cargparse\nNamespace\n)R)R.", id="calling what a call gave"),
        pytest.param(b"\x80\x02ccollections\nOrderedDict\n]R.", id="arguments that are a list"),
        pytest.param(b"\x80\x02cargparse\nNamespace\n)\x81}X\x09\x00\x00\x00__class__Nsb.", id="another class for a Namespace"),
        pytest.param(b"\x80\x02cargparse\nNamespace\n)\x81}K\x01Nsb.", id="a Namespace with a number as name"),
        pytest.param(b"\x80\x02X\x01\x00\x00\x00a}b.", id="attributes of a string"),
        pytest.param(b"\x80\x02\x82\x01.", id="EXT1, the copyreg registry"),
        pytest.param(b"\x80\x05\x97.", id="NEXT_BUFFER"),
        pytest.param(b"Pos\n.", id="PERSID"),
        pytest.param(b"\x80\x02c\n\n.", id="a global without a name"),
        pytest.param(b"\x80\x02cos \nsystem\n.", id="a module name with a space"),
    ],
)
def test_opcodes_that_call_or_set_in_other_ways_are_refused(refused, data):
    refused(data)


def test_keyword_arguments_call_nothing_either(pt_with):
    data = b"\x80\x04}\x8c\x01kcsome.module\nThing\n)}\x8c\x01aK\x01s\x92s."
    assert read_index(pt_with(data)).tree["k"].args == ({"a": 1},)


def test_refusals_are_format_errors_so_that_every_caller_handles_them():
    assert issubclass(HostileFile, FormatError)
