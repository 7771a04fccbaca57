"""Planning a trillion parameters from headers alone, and some of that plan's tasks really done, extrapolated to the whole.

    python -m benchmarks.planning                        DeepSeek-V3 671B to Kimi-K3 2.8T, in bf16 and as published, two layouts each
    ... --torch-dist --samples 0                         to torch_dist and back, instead
    ... --dcp 8 --samples 0                              to torch DCP, every tensor cut over 8 files, and back, instead
    ... --directory /disk --samples 5 --models kimi      where the files go; fewer tasks; one model

Sources are header-only: files of the real sizes whose weights are holes. They read as zeros, faster than a disk reads, so what the
tasks measure is computing and writing. Tasks need some gigabytes at a time; what a task has written is dropped before the next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks.measuring import ROOT, machine, tree_bytes
from benchmarks.results import FOLDER, MIB, save
from benchmarks.sparse_models import MODELS, write_sparse_model, write_sparse_target
from convsvc.execute.forecast import projected_bytes
from convsvc.execute.staging import sealing
from convsvc.execute.staging.marks import MARKS, TASKS
from convsvc.execute.staging.task_pack import write_pack
from convsvc.execute.task_files import dump_task, extract_task
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan

# pipeline, expert and tensor parallel sizes
LAYOUTS = ((16, 64, 1), (8, 32, 8))
# What their own files do not say, a config.json does.
BESIDE = ("dcp", "mindspeed-mm")
# Models whose targets are not those of the command line: of several modules, cut as MindSpeed-MM's guide has it.
GUIDE = {"format": "mindspeed-mm", "llm_pp_layers": [[1, 10, 10, 7]], "vit_pp_layers": [[32, 0, 0, 0]], "tp_size": 1}
OWN = {"qwen2-vl-7b": {"mindspeed-mm, llm 1 10 10 7, vit 32 0 0 0": GUIDE}}
WORKERS = (1, 8, 64)
# What MindSpeed-LLM has no place for is planned to Hugging Face in bf16.
NO_PLACE = ("gpt_oss", "kimi_linear")
TB = 10**12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="where files are written, some gigabytes (default: a temporary one)")
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--samples", type=int, default=20, help="tasks that are really done; 0: only plan")
    parser.add_argument("--torch-dist", action="store_true", help="to and from Megatron's torch_dist in place of rank files")
    parser.add_argument("--dcp", type=int, metavar="SHARDS", help="to and from torch DCP in so many shards in place of rank files")
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="planning-") as name:
        rows = [row for model in options.models.split(",") for row in plan_model(model, Path(name), chosen(options))]
        kind = "planning-torch-dist" if options.torch_dist else f"planning-dcp-{options.dcp}" if options.dcp else "planning"
        save(kind, "Planning from headers alone", rows, before, options.results)
        before = machine()
        # Holes are no packed weights: their zeros say nothing that holds together.
        plain = [model for model in options.models.split(",") if model not in OWN and "quantization_config" not in MODELS[model]]
        if options.samples and plain:
            model = plain[-1]
            samples = in_own_process("sample_tasks", job(Path(name) / model, LAYOUTS[0]), options.samples)
            title = f"{samples['tasks']} of the {samples['of']} tasks of {model} to {shown(LAYOUTS[0])}, in one process"
            save("planned-tasks", title, extrapolated(samples), before, options.results)


def chosen(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Targets by their names in place of the layouts of rank files, where there are such."""
    dcp = {f"dcp in {options.dcp} shards": {"format": "dcp", "shards": options.dcp}} if options.dcp else {}
    return dcp | ({"torch_dist": {"format": "megatron"}} if options.torch_dist else {})


def plan_model(model: str, root: Path, targets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each target, to it and from it; where there are none, for each layout of rank files."""
    size_bytes = write_sparse_model(root / model, MODELS[model])
    print(f"{model}: {size_bytes / TB:.2f} TB of headers written", file=sys.stderr, flush=True)
    source = {"format": "huggingface", "path": str(root / model)}
    named = OWN.get(model, targets)
    wanted = {name: {"source": source, "target": {"path": str(root / "target"), **target}} for name, target in named.items()}
    wanted = wanted or {shown(layout): job(root / model, layout) for layout in LAYOUTS}
    rows = []
    if MODELS[model]["model_type"] in NO_PLACE:
        again = {"format": "huggingface", "path": str(root / "again")}
        there = {"source": {"format": "huggingface", "path": str(root / model)}, "target": again}
        return [{"model": model, "conversion": "to Hugging Face in bf16", **in_own_process("measure_plan", there, None)}]
    for name, there in wanted.items():
        rows.append({"model": model, "conversion": f"to {name}", **in_own_process("measure_plan", there, str(root / "made"))})
        words = {"config_dir": str(root / model)} if there["target"]["format"] in BESIDE else {}
        back = {
            "source": {"format": there["target"]["format"], "path": str(root / "made"), **words},
            "target": {"format": "huggingface", "path": "/back"},
        }
        rows.append({"model": model, "conversion": f"from {name}", **in_own_process("measure_plan", back, None)})
        subprocess.run(["rm", "-r", str(root / "made")], check=True)
    return rows


def measure_plan(wanted: Mapping[str, Any], sparse_target: str | None) -> dict[str, Any]:
    """What planning took in this process; then, unmeasured, the target's files are made, as the way back's source."""
    began, cpu_began = perf_counter(), process_time()
    plan = make_plan(dict(wanted))
    seconds, cpu_seconds, peak = perf_counter() - began, process_time() - cpu_began, peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        staging = Path(folder)
        began = perf_counter()
        write_task_files(plan, staging, range(len(plan.tasks)))
        staged_s, task_bytes = perf_counter() - began, tree_bytes(staging)
    if sparse_target is not None:
        write_sparse_target(plan, Path(sparse_target))
    sizes = plan.summary()
    return {
        "s": seconds,
        "cpu s": cpu_seconds,
        "peak MiB": peak / MIB,
        "files in": sizes["source"]["files"],
        "files out": sizes["target"]["files"],
        "TB in": plan.bytes_in / TB,
        "TB out": plan.bytes_out / TB,
        "tasks": sizes["tasks"],
        "largest / median": sizes["balance"],
        "plan on disk MiB": task_bytes / MIB,
        "written in s": staged_s,
    }


def sample_tasks(wanted: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Does `count` of the plan's tasks, evenly spread, in a process which has not planned. Needs no room for the whole target."""
    plan = make_plan(dict(wanted))
    numbers = [len(plan.tasks) * at // count for at in range(count)]
    with tempfile.TemporaryDirectory(dir=Path(wanted["target"]["path"]).parent) as folder:
        staging = Path(folder)
        sealing.make_files(plan, staging)
        write_task_files(plan, staging, numbers)
        (staging / MARKS).mkdir()
        done = in_own_process("do_tasks", folder, numbers)
    return {**done, "tasks": count, "of": len(plan.tasks), "projected": projected_bytes(plan), "TB out": plan.bytes_out / TB}


def do_tasks(folder: str, numbers: list[int]) -> dict[str, Any]:
    """Does the tasks one after the other, as a worker does; answers bytes, seconds, and this process's peak memory."""
    from convsvc.execute.worker import run_task

    totals = {"bytes_read": 0, "bytes_written": 0, "seconds": 0.0}
    began = process_time()
    for number in numbers:
        counters = run_task({"staging": folder, "task": number, "mode": "write"})
        totals = {name: total + counters[name] for name, total in totals.items()}
        drop_data(Path(folder))
    return {**totals, "cpu": process_time() - began, "peak": peak_bytes()}


def extrapolated(samples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each number of workers, each as fast as this one was: storage must be so many times as fast."""
    rate = samples["bytes_written"] / samples["seconds"]
    return [
        {
            "workers": workers,
            "hours for the whole": samples["TB out"] * TB / rate / workers / 3600,
            "GB/s written by all": rate * workers / 1e9,
            "GB/s written a worker": rate / 1e9,
            "cpu s / s": samples["cpu"] / samples["seconds"],
            "peak MiB a worker": samples["peak"] / MIB,
            "projected MiB": samples["projected"] / MIB,
        }
        for workers in WORKERS
    ]


def job(source: Path, layout: tuple[int, int, int]) -> dict[str, Any]:
    pipeline, expert, tensor = layout
    layers = MODELS[source.name]["num_hidden_layers"]
    target = {
        "format": "mindspeed-llm",
        "path": str(source.with_name("target")),
        "pipeline_parallel_size": pipeline,
        "expert_parallel_size": expert,
        "tensor_parallel_size": tensor,
        "moe_grouped_gemm": True,
        "noop_layers": list(range(layers, -(-layers // pipeline) * pipeline)),
    }
    return {"source": {"format": "huggingface", "path": str(source)}, "target": target}


def shown(layout: tuple[int, int, int]) -> str:
    return "pp {} ep {} tp {}".format(*layout)


def write_task_files(plan: Plan, staging: Path, numbers: list[int] | range) -> None:
    """The task files as a staging directory has them."""
    (staging / TASKS).mkdir(parents=True)
    source, target = (plan.source_files, plan.source_tensors), (plan.target_files, plan.target_tensors)
    documents = ((number, dump_task(extract_task(plan.tasks[number], plan.fingerprint, source, target))) for number in numbers)
    directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_pack(directory, "write", plan.fingerprint, documents, lambda: None)
    finally:
        os.close(directory)


def drop_data(staging: Path) -> None:
    """Makes all files holes again, in their sizes."""
    for path in staging.rglob("*.pt"):
        status = path.stat()
        if status.st_blocks > 2048:
            os.truncate(path, 0)
            os.truncate(path, status.st_size)


def peak_bytes() -> int:
    """This process's largest resident memory. Not `ru_maxrss`: that begins with what the launching process had."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def in_own_process(function: str, *arguments: Any) -> Any:
    """What a function of this module answers in a fresh interpreter."""
    code = "import json, sys; from benchmarks import planning as p; print(json.dumps(getattr(p, sys.argv[1])(*json.loads(sys.argv[2]))))"
    command = [sys.executable, "-c", code, function, json.dumps(arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
