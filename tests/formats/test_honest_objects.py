"""What honest checkpoints hold beside tensors is read for what it is: a value, or a record of a name and what was with it."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import pathlib
import pickle
import re
import signal
import sys
import types
import uuid
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from convsvc.errors import HostileFile
from convsvc.formats.base import Global, Inert
from convsvc.formats.torch_zip import read_index


class Backend(enum.Enum):
    FLASH = 1


class Recipe(str, enum.Enum):
    DELAYED = "delayed"


class Scopes(enum.Flag):
    ATTENTION = 1
    EXPERTS = 2


Point = collections.namedtuple("Point", "x y")


@dataclass
class TransformerConfig:
    num_layers: int
    backend: Backend


def state() -> io.BytesIO:
    """As Transformer Engine keeps an `_extra_state` (module/base.py, get_extra_state)."""
    stream = io.BytesIO()
    torch.save({"scale_fwd": torch.ones(3), "recipe": Backend.FLASH}, stream)
    return stream


OBJECTS: dict[str, Any] = {
    "bytes in memory": state(),
    "text in memory": io.StringIO("text"),
    "signal": signal.SIGTERM,
    "handler": signal.Handlers.SIG_IGN,
    "enum": Backend.FLASH,
    "text enum": Recipe.DELAYED,
    "flags": Scopes.ATTENTION | Scopes.EXPERTS,
    "dtype": torch.bfloat16,
    "device": torch.device("cpu"),
    "layout": torch.strided,
    "config": TransformerConfig(2, Backend.FLASH),
    "named tuple": Point(1, 2),
    "path": pathlib.Path("/data"),
    "pure path": pathlib.PureWindowsPath("C:/data"),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "span": datetime.timedelta(hours=1),
    "queue": collections.deque([1, 2], maxlen=3),
    "counter": collections.Counter("aab"),
    "chain": collections.ChainMap({"a": 1}),
    "default dict": collections.defaultdict(list, a=[1]),
    "partial": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    "namespace": types.SimpleNamespace(a=1),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "pattern": re.compile("a+"),
    "scalar": numpy.float32(1.5),
    "array": numpy.arange(3),
    "numpy dtype": numpy.dtype("int64"),
    "random state": numpy.random.RandomState(3),
    "exception": ValueError("what happened"),
    "complex": 1 + 2j,
    "range": range(3),
    "slice": slice(1, 2),
    "bytearray": bytearray(b"abc"),
    "frozen set": frozenset({1}),
    "ellipsis": ...,
    "type": dict,
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("what", OBJECTS)
def test_an_honest_object_is_no_hindrance(tmp_path: Path, what: str, protocol: int) -> None:
    content = {"args": Namespace(num_layers=2, odd=OBJECTS[what]), "model": {"w": torch.ones(2), "x._extra_state": OBJECTS[what]}}
    torch.save(content, tmp_path / "model.pt", pickle_protocol=protocol)
    index = read_index(tmp_path / "model.pt")
    assert [tensor.name for tensor in index.tensors if tensor.name == "model/w"] == ["model/w"]
    assert index.tree["args"].num_layers == 2


@pytest.mark.parametrize(
    ("what", "name"),
    [("bytes in memory", "BytesIO"), ("signal", "Signals"), ("enum", "Backend"), ("config", "TransformerConfig"), ("path", "PosixPath")],
)
def test_it_is_a_record_that_bears_its_name(tmp_path: Path, what: str, name: str) -> None:
    torch.save({"odd": OBJECTS[what]}, tmp_path / "model.pt")
    record = read_index(tmp_path / "model.pt").tree["odd"]
    assert isinstance(record, Inert)
    assert record.name.split(".")[0] == name


def test_what_bytes_in_memory_hold_is_not_looked_into(tmp_path: Path) -> None:
    """Whoever loads a Transformer Engine's state unpickles those bytes; here they are bytes."""
    stream = io.BytesIO(pickle.dumps(Runs(eval, "1")))
    torch.save({"x._extra_state": stream}, tmp_path / "model.pt")
    record = read_index(tmp_path / "model.pt").tree["x._extra_state"]
    assert record.state[0] == stream.getvalue()


class Runs:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("member", ["SIGTERM", "SIG_IGN"])
def test_a_member_of_an_enum_may_be_named_by_getattr(pt: Any, member: str) -> None:
    owner = "Signals" if member == "SIGTERM" else "Handlers"
    data = f"\x80\x02}}X\x01\x00\x00\x00kcbuiltins\ngetattr\ncsignal\n{owner}\nX{chr(len(member))}\x00\x00\x00{member}\x86Rs.".encode(
        "latin-1"
    )
    record = pt(data).tree["k"]
    assert (type(record), record.module, record.name) == (Global, "signal", f"{owner}.{member}")


@pytest.mark.parametrize(
    "name",
    ["signal.signal", "signal.Signals.__init__", "io.open", "io.open_code", "io.BytesIO.read", "pathlib.Path.unlink", "pathlib.os",
     "functools.reduce", "inspect.getattr_static", "inspect.Parameter.replace", "types.FunctionType", "_io.FileIO", "signal.raise_signal"],
)  # fmt: skip
def test_the_neighbours_of_what_is_allowed_are_not(pt: Any, name: str) -> None:
    module, _, attribute = name.partition(".")
    with pytest.raises(HostileFile):
        pt(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b".")


@pytest.fixture
def pt(tmp_path: Path) -> Any:
    """Reads a torch file of this pickle."""
    import zipfile

    def read(data: bytes) -> Any:
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
            archive.writestr("model/data.pkl", data)
        return read_index(tmp_path / "model.pt")

    return read


def test_a_module_that_is_not_there_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mindspeed_stand_in")
    monkeypatch.setitem(sys.modules, "mindspeed_stand_in", module)
    module.Config = type("Config", (), {"__module__": "mindspeed_stand_in"})  # type: ignore[attr-defined]
    config = module.Config()
    config.hidden_size = 8
    torch.save({"config": config}, tmp_path / "model.pt")
    monkeypatch.delitem(sys.modules, "mindspeed_stand_in")
    record = read_index(tmp_path / "model.pt").tree["config"]
    assert (record.module, record.name, record.state) == ("mindspeed_stand_in", "Config", {"hidden_size": 8})
