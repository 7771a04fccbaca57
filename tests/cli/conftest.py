"""A real checkpoint, small enough to convert in milliseconds, and a real service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_checkpoints import write_llama


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Llama of two layers in a Hugging Face directory."""
    return write_llama(tmp_path / "hf")


@pytest.fixture
def job(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """From it to mcore, tp 2."""
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2}
    return {"source": {"format": "huggingface", "path": str(checkpoint)}, "target": target}


@pytest.fixture
def job_file(job: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    return str(path)


@pytest.fixture
def service_url(tmp_path: Path) -> Iterator[str]:
    """`convsvc serve`, as a person starts it, with the quickest engine."""
    command = [sys.executable, "-m", "convsvc.cli.main", "serve", "--port", "0", "--engine", "inline"]
    command += ["--database-url", f"sqlite:///{tmp_path / 'jobs.db'}"]
    with (tmp_path / "service.log").open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + (tmp_path / "service.log").read_text()
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)
