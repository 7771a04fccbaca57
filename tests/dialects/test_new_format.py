"""A new framework is one folder, a new file format one file: `toy/` beside this file is brought in as an installed package brings one, by
entry points, and nothing else is told of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors import safe_open

from tests.tiny_checkpoints import write_llama

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """[convsvc.dialects]
toy = tests.dialects.toy

[convsvc.formats]
toybox = tests.dialects.toy.toybox
"""
CONVERT = "import json, sys; from convsvc.conversion import convert; [convert(job, engine='inline') for job in json.load(sys.stdin)]"
ASK = """
import json
from convsvc.errors import JobError
from convsvc.spec import job_schema, parse_job
try:
    parse_job({"source": {"format": "toys", "path": "/a"}, "target": {"format": "toy", "path": "/b", "inputs_first": "up"}})
except JobError as error:
    print(json.dumps({"schema": job_schema(), "faults": error.details["fields"]}))
"""
PAGES = """
from convsvc.dialects import family_pages, format_pages
from convsvc.families import FAMILIES
print(format_pages.page(), family_pages.page(FAMILIES["llama2"]))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of a Python in which a package with the toy is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "convsvc_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: convsvc-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "hf")


def run(environment: dict[str, str], *arguments: str, text: str | None = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], env=environment, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def convsvc(environment: dict[str, str], *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run(environment, "-m", "convsvc.cli.main", *arguments, status=status)


def jobs(checkpoint: Path, work: Path, **toy: Any) -> list[dict[str, Any]]:
    """Hugging Face -> toy -> mindspeed-llm -> Hugging Face."""
    places = [
        {"format": "huggingface", "path": str(checkpoint)},
        {"format": "toy", "path": str(work / "toy"), **toy},
        {"format": "mindspeed-llm", "path": str(work / "ranks"), "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        {"format": "huggingface", "path": str(work / "back"), "config_dir": str(checkpoint)},
    ]
    return [{"source": {name: source[name] for name in ("format", "path")}, "target": target} for source, target in pairwise(places)]


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    return found


def assert_same(directory: Path, checkpoint: Path) -> None:
    have, want = tensors(directory), tensors(checkpoint)
    assert have.keys() == want.keys()
    assert [name for name in want if not torch.equal(have[name].view(torch.uint8), want[name].view(torch.uint8))] == []


@pytest.mark.parametrize("toy", [{}, {"inputs_first": False, "files": "toybox"}], ids=["safetensors", "a file format of its own"])
def test_a_model_goes_through_a_new_format_and_back_bit_for_bit(
    toy: dict[str, Any], checkpoint: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    first, *others = jobs(checkpoint, tmp_path, **toy)
    run(environment, "-c", CONVERT, text=json.dumps([{**first, "options": {"verify": "full"}}, *others]))
    kind = toy.get("files", "safetensors")
    assert sorted(path.name for path in (tmp_path / "toy").glob(f"*.{kind}")) == [
        f"end.{kind}", f"layer-000.{kind}", f"layer-001.{kind}", f"start.{kind}",
    ]  # fmt: skip
    report = json.loads((tmp_path / "ranks" / "conversion-report.json").read_text())
    assert {file["digest_of"].partition(":")[0] for file in report["source"]["files"]} == {"the header" if not toy else "the table"}
    assert_same(tmp_path / "back", checkpoint)
    if not toy:
        assert_own_layout(tmp_path / "toy", checkpoint)


def assert_own_layout(directory: Path, checkpoint: Path) -> None:
    """Read past convsvc: the names, and that matrices lie as its table says."""
    want = tensors(checkpoint)
    with safe_open(directory / "start.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("words_in"), want["model.embed_tokens.weight"])
    with safe_open(directory / "layer-001.safetensors", framework="pt") as file:
        query, key, value = (want[f"model.layers.1.self_attn.{name}_proj.weight"].reshape(2, -1, 4, 16) for name in "qkv")
        assert torch.equal(file.get_tensor("look"), torch.cat([query, key, value], 1).transpose(0, 1).reshape(32, 16).T)


def test_the_commands_take_it(checkpoint: Path, environment: dict[str, str], tmp_path: Path) -> None:
    assert re.search(r"--source-format \[[a-z|-]*\btoy\b", convsvc(environment, "convert", "--help").stdout)
    toy, back = tmp_path / "toy", tmp_path / "back"
    convsvc(
        environment, "convert", "--source", str(checkpoint), "--source-format", "huggingface", "--target", str(toy),
        "--target-format", "toy", "--engine", "inline", "--set", "target.files=toybox",
    )  # fmt: skip
    found = json.loads(convsvc(environment, "inspect", str(toy), "--json").stdout)
    assert (found["format"], found["complete"], found["model_type"], found["layers"]) == ("toy", True, "llama2", 2)
    assert found["layout"] == {"inputs_first": True}
    file = json.loads(convsvc(environment, "inspect", str(toy / "start.toybox"), "--json").stdout)
    assert (file["format"], file["contents"]) == ("toybox", [{"name": "words_in", "dtype": "BF16", "shape": [64, 16]}])
    convsvc(
        environment, "convert", "--source", str(toy), "--source-format", "toy", "--target", str(back),
        "--target-format", "huggingface", "--engine", "inline",
    )  # fmt: skip
    assert_same(back, checkpoint)
    refused = convsvc(environment, "convert", "--source", "/a", "--source-format", "toys", status=2).stderr
    assert "'toy'" in refused
    words = {"COMP_WORDS": "convsvc convert --target-format to", "COMP_CWORD": "3", "_CONVSVC_COMPLETE": "bash_complete"}
    completed = run({**environment, **words}, "-c", "from convsvc.cli.main import cli; cli(prog_name='convsvc')").stdout
    assert completed == "plain,toy\n"


def test_the_schema_and_the_errors_of_a_job_have_it(environment: dict[str, str]) -> None:
    said = json.loads(run(environment, "-c", ASK).stdout)
    assert said["schema"]["properties"]["target"]["discriminator"]["mapping"]["toy"] == "#/$defs/ToyTarget"
    assert said["schema"]["$defs"]["ToyTarget"]["properties"]["files"]["enum"] == ["safetensors", "toybox"]
    source, target = said["faults"]
    assert re.search(r'no format "toys": one of .*\btoy$', source["text"])
    assert (target["field"], target["given"]) == ("target.inputs_first", "up")


def test_without_the_package_it_is_unknown(checkpoint: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps(jobs(checkpoint, tmp_path)[0]))
    assert 'no format "toy"' in convsvc(dict(os.environ), "convert", str(job), "--engine", "inline", status=2).stderr


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[httpx.Client]:
    """`convsvc serve`, as a person starts it, with the quickest engine."""
    command = [sys.executable, "-m", "convsvc.cli.main", "serve", "--port", "0", "--engine", "inline"]
    command += ["--database-url", f"sqlite:///{tmp_path / 'jobs.db'}"]
    log = tmp_path / "service.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found, log.read_text()
        with httpx.Client(base_url=found[0], timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()  # type: ignore[union-attr]  # it was started with a pipe


def test_the_service_takes_it(service: httpx.Client, checkpoint: Path, tmp_path: Path) -> None:
    formats = service.get("/formats").json()
    assert "toy" in formats["source"]
    assert "toy" in formats["target"]
    for job in jobs(checkpoint, tmp_path, files="toybox"):
        posted = service.post("/jobs", json=job)
        assert posted.status_code == 201, posted.text
        assert ended(service, posted.json()["id"])["state"] == "succeeded"
    assert_same(tmp_path / "back", checkpoint)
    refused = service.post("/jobs", json={"source": {"format": "toys", "path": "/a"}, "target": {"format": "toy", "path": "/b"}})
    assert (refused.status_code, bool(re.search(r"one of [a-z, -]*\btoy\b", refused.text))) == (422, True)


def ended(service: httpx.Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (found := service.get(f"/jobs/{job}").json())["state"] not in ("succeeded", "failed", "canceled"):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return dict(found)


def test_the_pages_show_it(environment: dict[str, str]) -> None:
    pages = run(environment, "-c", PAGES).stdout
    assert "\n## toy\n\n### As a source\n\nA directory with words.txt and a file a layer.\n" in pages
    assert '| `files` | `"safetensors"`, `"toybox"` | `"safetensors"` | What kind of file each layer is. |' in pages
    assert "\n- `toybox`: a toybox; give it as one: format toy\n" in pages
    family = pages.partition("\n## Toy\n")[2].partition("\n## ")[0]
    assert "\n| `model.norm.weight` | hidden | `last_norm` | hidden | replicated |\n" in family
    assert "\n| `layer.{layer}. think` | `layer.{layer}. think` | (ffn glu) hidden | replicated |\n" in family.partition("### With ")[2]
