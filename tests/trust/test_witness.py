"""safetensors and torch open what was written, in a process of their own, and must find in it what was planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import VerifyError
from convsvc.execute.check import witness
from convsvc.execute.check.tensors import compare_tensors
from convsvc.formats import FORMATS, safetensors, torch_zip
from convsvc.formats.base import StoredTensor, TensorSpec
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

Written = tuple[Plan, int, dict[int, int]]


@pytest.fixture(scope="module", params=["mindspeed-llm", "huggingface"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """A plan that was carried out, its target, open, and the checksums of what was written."""
    folder = tmp_path_factory.mktemp(request.param)
    source = {"format": "huggingface", "path": str(write_llama(folder / "hf"))}
    layout = {"tensor_parallel_size": 2} if request.param == "mindspeed-llm" else {"config_dir": str(folder / "hf")}
    job = {"source": source, "target": {"format": request.param, "path": str(folder / "target"), **layout}}
    convert(job, engine="inline")
    plan = make_plan(job)
    directory = os.open(plan.target_path, os.O_RDONLY | os.O_DIRECTORY)
    yield plan, directory, compare_tensors(plan, directory, lambda task, size: None)
    os.close(directory)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The witnesses answer in this process, which has loaded torch for long."""
    monkeypatch.setattr(witness, "ask", lambda request, directory: witness.find_faults(json.loads(json.dumps(request))))


def with_first(plan: Plan, **changes: Any) -> Plan:
    """The plan, whose first file is said to hold another first tensor."""
    first, *others = plan.skeletons[0].tensors
    wrong: StoredTensor = first._replace(**changes)
    return replace(plan, skeletons=(replace(plan.skeletons[0], tensors=(wrong, *others)), *plan.skeletons[1:]))


def test_what_was_written_is_what_they_find(written: Written, here: None) -> None:
    witness.call_witnesses(*written)


@pytest.mark.parametrize("changes", [{"dtype": "F16"}, {"shape": (1, 2, 3)}, {"name": "model/nothing"}], ids=["dtype", "shape", "name"])
def test_another_name_type_or_shape_is_told_with_the_file(changes: dict[str, Any], written: Written, here: None) -> None:
    plan, directory, crcs = written
    with pytest.raises(VerifyError, match="safetensors and torch do not find") as caught:
        witness.call_witnesses(with_first(plan, **changes), directory, crcs)
    assert plan.target_files[0].path in str(caught.value)


def test_other_values_are_told(written: Written, here: None) -> None:
    plan, directory, crcs = written
    with pytest.raises(VerifyError, match="other values than were written"):
        witness.call_witnesses(plan, directory, {number: crc ^ 1 for number, crc in crcs.items()})


def test_a_file_that_they_cannot_open_is_told_in_their_words(written: Written, here: None) -> None:
    plan, directory, crcs = written
    path = Path(plan.target_path) / plan.target_files[0].path
    data = path.read_bytes()
    path.write_bytes(b"\xff" * 16 + data[16:])
    with pytest.raises(VerifyError, match="Error: "):
        witness.call_witnesses(plan, directory, crcs)
    path.write_bytes(data)


def test_they_are_asked_in_a_full_run_and_when_a_target_is_verified_but_not_loaded_into_our_process(tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(write_llama(tmp_path / "hf"))}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "target"), "tensor_parallel_size": 2}
    job = {"source": source, "target": target, "options": {"verify": "full"}}
    code = f"""
import sys
from convsvc.conversion import convert, verify
from convsvc.execute.check import witness

asked, ask = [], witness.ask
witness.ask = lambda request, directory: asked.append(ask(request, directory)) or asked[-1]
job = {job!r}
convert(job, engine="inline")
verify(job)
print(asked, [name for name in ("torch", "safetensors") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[[], []] []\n"


def test_a_file_that_is_larger_than_memory_is_asked_for_its_headers_alone(tmp_path: Path) -> None:
    """torch maps files privately, which the kernel refuses for more than there is; that is no fault of the target."""
    huge = TensorSpec("model/w", "BF16", (1 << 20, 1 << 20))
    tree = {"args": Namespace(hidden_size=8), "model": {"w": huge}}
    is_refused = Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "1"
    for kind, skeleton in (
        ("torch_zip", torch_zip.plan_skeleton(tree, archive="model")),
        ("safetensors", safetensors.plan_skeleton([huge])),
    ):
        path = tmp_path / kind
        with path.open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), skeleton.size_bytes)
            for start, data in (*skeleton.segments, *FORMATS[kind].seal(skeleton, {"model/w": 0})):
                os.pwrite(file.fileno(), data, start)
        request = {"root": str(tmp_path), "files": [[kind, kind, 0]], "samples": {kind: {"model/w": 1}} if is_refused else {}}
        assert witness.find_faults({**request, "kinds": [{"model/w": ["BF16", [1 << 20, 1 << 20]]}]}) == []
        assert "planned F32" in witness.find_faults({**request, "kinds": [{"model/w": ["F32", [1 << 20, 1 << 20]]}]})[0]
