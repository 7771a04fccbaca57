"""What docs/service.md tells people to type is typed: its walk through one machine and its Python, on a service of this test's own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiny_checkpoints import write_llama

ROOT = Path(__file__).parents[1]
GUIDE, README = (ROOT / "docs" / "service.md").read_text(), (ROOT / "README.md").read_text()
QUICK = (ROOT / "docs" / "quickstart.md").read_text()
JOB = """{"source": {"format": "huggingface", "path": "/shared/hf/llama"},
          "target": {"format": "mindspeed-llm", "path": "/shared/mcore/first", "tensor_parallel_size": 2}}"""


def blocks(language: str, section: str, page: str = GUIDE) -> list[str]:
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory that stands for the guide's machine: /shared and /var/lib/convsvc are in it."""
    (tmp_path / "shared" / "hf").mkdir(parents=True)
    (tmp_path / "shared" / "mcore").mkdir()
    write_llama(tmp_path / "shared" / "hf" / "llama")
    (tmp_path / "job.json").write_text(moved(JOB, tmp_path, 0))
    return tmp_path


def moved(text: str, here: Path, port: int) -> str:
    return text.replace("/shared", f"{here}/shared").replace("/var/lib/convsvc", f"{here}/home").replace("8765", str(port))


def typed(text: str, here: Path, *interpreter: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVSVC_")} | {"PATH": path}
    done = subprocess.run([*interpreter, text], cwd=here, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def served(command: str, here: Path) -> Iterator[None]:
    line = [sys.executable, "-m", "convsvc.cli.main", *command.split()[1:]]
    environment = {**os.environ, "CONVSVC_HOME": str(here / "home")}
    with (here / "service.log").open("w") as log:
        process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        assert "convsvc is ready" in process.stdout.readline(), (here / "service.log").read_text()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_walk_through_one_machine_and_the_python_work_as_written(here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    make, serve, use = (moved(block, here, port) for block in blocks("sh", "One machine"))
    sync, asynchronous = (moved(block, here, port) for block in blocks("python", "From Python"))
    typed(make, here, "bash", "-euc")
    with served(serve, here):
        told = typed(use, here, "bash", "-euc")
        assert "projected_bytes" in told
        assert "succeeded" in told
        token = (here / "me.token").read_text().strip()
        prologue = f"import os; os.environ |= {{'CONVSVC_URL': 'http://127.0.0.1:{port}', 'CONVSVC_TOKEN': {token!r}}}\n"
        told = typed(prologue + sync, here, sys.executable, "-c")
        assert "llama2" in told
        assert "\nsucceeded" in told
        assert typed(prologue + asynchronous, here, sys.executable, "-c").count(",") == 2  # the job, its verification, Python's
        (here / "job.json").write_text((here / "job.json").read_text().replace("mcore/first", "mcore/second"))
        [readme] = blocks("python", "As a service", README)
        assert typed(prologue + readme, here, sys.executable, "-c") == "succeeded\n"
    assert (here / "shared" / "mcore" / "llama-tp2" / "latest_checkpointed_iteration.txt").exists()


def test_the_quick_start_on_one_machine_works_as_written(here: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve, use = (moved(block, here, port) for block in blocks("sh", "One machine", QUICK))
    with served(serve, here):
        told = typed(use, here, "bash", "-euc")
    for said in ("succeeded", "Labels        model=llama", "Next          the target is", "process", "the same model: 15 tensors compared"):
        assert said in told


def test_the_guides_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", GUIDE)
    assert links
    missing = [link for link in links if not (ROOT / "docs" / link).exists()]
    assert not missing
