"""The benchmarks run, small, so that they do when somebody needs them; and what they say is put where it is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import run_measured
from benchmarks.memory import measure as measure_memory
from benchmarks.mindformers import QWEN3_06B
from benchmarks.mindformers import measure as measure_mindformers
from benchmarks.models import MOE_SMALL_VOCAB, write_model
from benchmarks.report import fill
from benchmarks.results import save

ROOT = Path(__file__).resolve().parents[1]
SMALL = {**MOE_SMALL_VOCAB, "num_hidden_layers": 1, "num_experts": 8, "vocab_size": 512}


def module(name: str, *arguments: object) -> str:
    command = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_model_is_converted_forth_and_by_the_naive_script_to_the_same_experts(tmp_path: Path) -> None:
    import torch

    source = tmp_path / "source"
    assert write_model(source, SMALL) == sum(path.stat().st_size for path in source.glob("*.safetensors"))
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "ours"), "expert_parallel_size": 2, "moe_grouped_gemm": True}
    job = {"source": {"format": "huggingface", "path": str(source)}, "target": target}
    done = json.loads(module("benchmarks.one_job", json.dumps(job), 1))
    assert done["tasks"]["done"] > 0
    module("benchmarks.naive", source, tmp_path / "naive", 1, 2)
    for rank in (0, 1):
        file = f"mp_rank_00_{rank:03d}/model_optim_rng.pt"
        ours = torch.load(next((tmp_path / "ours").glob(f"*/{file}")), weights_only=False)["model"]
        naive = torch.load(tmp_path / "naive" / file, weights_only=True)["model"]
        for name, tensor in naive.items():
            assert torch.equal(tensor.view(torch.int16).flatten(), ours[name].view(torch.int16).flatten()), name


def test_the_floor_moves_what_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(bytes(1 << 20))
    module("benchmarks.floor", tmp_path / "source", tmp_path / "target", 1 << 20, 3 << 20, "--depth", 2, "--reread")
    assert sum(path.stat().st_size for path in (tmp_path / "target").iterdir()) == 3 << 20


def test_a_command_is_measured_with_its_children() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'b = bytearray(300 << 20); sum(range(5 * 10**6))'], check=True)"
    took = run_measured([sys.executable, "-c", child])
    assert took.peak_bytes > 300 << 20
    assert took.cpu_s > 0.01


def test_memory_is_measured_both_ways_beside_what_the_plan_promises(tmp_path: Path) -> None:
    write_model(tmp_path / "source", SMALL)
    there, back = measure_memory(tmp_path / "source", "a model", 1, {"format": "dcp", "shards": 2}, "dcp", tmp_path)
    assert (there["case"], back["case"]) == ("a model to dcp", "a model from dcp")
    assert all(row["peak MiB"] > 0 and row["a worker's at most MiB"] > 0 for row in (there, back))
    assert not (tmp_path / "there").exists()


def test_results_come_between_their_marks(tmp_path: Path) -> None:
    began = {"cpus": 2, "kernel": "6", "load_1min": 0.5}
    save("a", "Copying", [{"arm": "cp", "s": 1.25}], began, tmp_path)
    page = "<!-- results: a -->\nold\n<!-- end -->\n<!-- results: b -->\nnot measured\n<!-- end -->\n"
    filled = fill(page, tmp_path)
    assert "| cp | 1.25 |" in filled
    assert "old" not in filled
    assert "not measured" in filled
    assert fill(filled, tmp_path) == filled


def test_the_guide_of_mindspore_transformers_is_measured_and_gives_the_model_back(tmp_path: Path) -> None:
    small = {**QWEN3_06B, "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 96, "head_dim": 8, "vocab_size": 512}
    rows = measure_mindformers(tmp_path, small, cold=False)
    assert [row["step"] for row in rows] == ["to 8 ranks", "unify", "reverse"]
