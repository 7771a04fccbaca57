"""The readers that users have open what was written: safetensors and torch, in a process of their own (`formats.witnesses`).

`call_witnesses` starts this module as a program, which reads what to expect from stdin, opens every file, headers only, and writes what it
found wrong. Of a few tensors it reads the values, as CRC-32. So what loads a target in the end agrees on names, types, shapes and
values, and a fault that our reader and our writer share does not pass. No pickle is run that names anything but tensors and a Namespace.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from convsvc.errors import VerifyError
from convsvc.formats import FORMATS
from convsvc.plan.plan import Plan

# So many tensors, of at most so many bytes, are read by value.
SAMPLES = 32
SAMPLE_BYTES = 16 << 20
SHOWN = 12


def call_witnesses(plan: Plan, directory: int, crcs: Mapping[int, int]) -> None:
    """Every target file in `directory`, which is open, is read by safetensors or torch and holds what the plan says.

    `crcs`: of every target tensor, by its number. Raises VerifyError with what a witness says.
    """
    faults = ask({"root": f"/proc/self/fd/{directory}", **_expected(plan, crcs)}, directory)
    if faults:
        raise VerifyError(
            f"{plan.target_path}: safetensors and torch do not find in it what was planned, {len(faults)} times",
            facts=faults[:SHOWN] + ([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []),
            do="please report it with the job and its plan",
            details={"target": plan.target_path, "faults": faults},
        )


def ask(request: dict[str, Any], directory: int) -> list[str]:
    """The answer of a new process, which has the directory open. Raises VerifyError if it has none."""
    # Not in the directory that we happen to be in: modules that lie there would be found first.
    command = [sys.executable, "-m", "convsvc.execute.check.witness"]
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, pass_fds=(directory,), cwd="/", check=False)
    if done.returncode:
        raise VerifyError(
            "safetensors and torch could not be asked to open the target",
            facts=done.stderr.decode(errors="replace").strip().splitlines()[-3:],
            do="check that both are installed beside convsvc, or use another options.verify",
        )
    return [str(fault) for fault in json.loads(done.stdout)]


def _expected(plan: Plan, crcs: Mapping[int, int]) -> dict[str, Any]:
    """The files, and what lies in them by the file's kind: a thousand rank files have a few dozen."""
    tables = [{tensor.name: [tensor.dtype, list(tensor.shape)] for tensor in skeleton.tensors} for skeleton in plan.skeletons]
    files = [[file.path, file.format, kind] for file, kind in zip(plan.target_files, plan.skeleton_of, strict=True)]
    small = [number for number, tensor in enumerate(plan.target_tensors) if tensor.size_bytes <= SAMPLE_BYTES]
    chosen = small[:: max(1, len(small) // SAMPLES)][:SAMPLES]
    samples: dict[str, dict[str, int]] = {}
    for number in chosen:
        tensor = plan.target_tensors[number]
        samples.setdefault(plan.target_files[tensor.file].path, {})[tensor.name] = crcs[number]
    return {"files": files, "kinds": tables, "samples": samples}


def find_faults(request: Mapping[str, Any]) -> list[str]:
    """What the readers find wrong with each file of a request."""
    faults: list[str] = []
    for path, kind, number in request["files"]:
        reader = getattr(FORMATS[kind], "open_with_library", None)
        if reader is None:
            continue  # nobody else reads this format
        try:
            found = reader(f"{request['root']}/{path}")
            faults += [f"{path}: {fault}" for fault in _faults(found, request["kinds"][number], request["samples"].get(path, {}))]
        except Exception as error:  # whatever a reader raises is what a user would meet
            faults.append(f"{path}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return faults


def _faults(found: Mapping[str, Any], expected: Mapping[str, Any], samples: Mapping[str, int]) -> Iterator[str]:
    yield from (f"{name} is not there" for name in expected if name not in found)
    yield from (f"{name} is there, and is not planned" for name in found if name not in expected)
    for name, (dtype, shape) in expected.items():
        if name in found and [found[name].dtype, found[name].shape] != [dtype, shape]:
            yield f"{name}: planned {dtype} {shape}, found {found[name].dtype} {found[name].shape}"
    for name, crc in samples.items():
        if name in found and found[name].crc() not in (crc, None):
            yield f"{name} has other values than were written"


if __name__ == "__main__":
    json.dump(find_faults(json.load(sys.stdin)), sys.stdout)
