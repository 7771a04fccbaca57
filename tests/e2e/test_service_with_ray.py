"""The installed `convsvc` against a served app with Ray, as a team uses it: every step is a command of its own process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

CONVSVC = str(Path(sys.executable).with_name("convsvc"))
HIDDEN, FFN, VOCAB = 1024, 4096, 4096
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Service:
    url: str
    environment: dict[str, str]

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen([CONVSVC, *args], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([CONVSVC, *args], env=self.environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == status, f"convsvc {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(json.loads(self.run("inspect-job", job_id, "--json").stdout))

    def wait_until(self, job_id: str, said: Any, timeout_s: float = 120) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while not said(job := self.job(job_id)):
            assert time.monotonic() < end, job
            time.sleep(0.1)
        return job


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "CONVSVC_HOME": str(home)}
    command = [CONVSVC, "serve", "--port", "0", "--engine", "ray", "--workers", "1"]
    with (
        (home / "service.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found, (home / "service.log").read_text()
            yield Service(found[0], {**environment, "CONVSVC_URL": found[0]})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def make_checkpoint(path: Path, layers: int) -> Path:
    """A Llama whose file is sparse: quick to make; 31 MB a layer."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (HIDDEN if name in "qo" else HIDDEN // 2, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": (HIDDEN, FFN)}
        shapes |= {f"{prefix}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end := end + 2 * prod(shape)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def write_job(checkpoint: Path, target: Path, file: Path) -> str:
    job = {
        "source": {"format": "huggingface", "path": str(checkpoint)},
        "target": {"format": "mindspeed-llm", "path": str(target), "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    }
    file.write_text(json.dumps(job))
    return str(file)


def test_submit_watch_cancel_in_mid_run_retry_and_two_jobs_on_one_target(
    service: Service, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # About 2 GB: long enough to be caught in mid-run.
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("source") / "hf", layers=64)
    target = tmp_path / "mcore"
    job_file = write_job(checkpoint, target, tmp_path / "job.json")

    # Cancel in mid-run: tasks are done, and others are not.
    job_id = service.run("submit", job_file).stdout.strip()
    service.wait_until(job_id, lambda job: job["progress"]["tasks_done"] >= 1)
    service.run("cancel", job_id)
    canceled = service.wait_until(job_id, lambda job: job["state"] not in ("running", "canceling"))
    assert canceled["state"] == "canceled"
    assert 0 < canceled["progress"]["tasks_done"] < canceled["progress"]["tasks_total"]
    assert list(tmp_path.iterdir()) == [tmp_path / "job.json"], "nothing is left of a canceled job"
    service.run("wait", job_id, status=7)

    # Retry to success, watched.
    service.run("retry", job_id)

    # A second job on the same target is refused while the first is active, and names it.
    refused = service.run("submit", job_file, status=4)
    assert job_id in refused.stderr

    assert service.run("wait", job_id).stdout.split()[1] == "succeeded"
    assert (target / "latest_checkpointed_iteration.txt").read_text() == "1"
    assert sorted(path.name for path in (target / "iter_0000001").iterdir()) == [
        "mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001",
    ]  # fmt: skip
    log = service.run("logs", job_id).stdout
    assert "planned llama2" in log
    assert "canceled" in log
    assert service.job(job_id)["result"]["bytes_written"] > 1_000_000_000

    # The target is complete now: the same job again is refused by what lies there.
    again = service.run("submit", job_file, "--watch", status=4)
    assert str(target) in again.stderr


def test_watch_shows_progress_and_the_way_back_is_verified_against_the_source(service: Service, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "source", layers=16)
    there = write_job(checkpoint, tmp_path / "mcore", tmp_path / "there.json")
    watched = service.run("submit", there, "--watch")
    assert "succeeded" in watched.stderr
    assert re.search(r"\b\d+/\d+\b|\d+%", watched.stderr), watched.stderr
    back = {
        "source": {"format": "mindspeed-llm", "path": str(tmp_path / "mcore")},
        "target": {"format": "huggingface", "path": str(tmp_path / "hf"), "config_dir": str(checkpoint)},
        "options": {"verify": "roundtrip", "max_shard_size": "125MB"},
    }
    (tmp_path / "back.json").write_text(json.dumps(back))
    service.run("submit", str(tmp_path / "back.json"), "--watch")
    described = json.loads(service.run("inspect", str(tmp_path / "hf"), "--json").stdout)
    assert described["complete"]
    assert (described["model_type"], described["layers"]) == ("llama2", 16)
