"""The judge of what tests write: which Hugging Face targets it loads, and what it says of those that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from convsvc.dialects.output import REPORT
from tests.loading import judge_written, pass_over_written, reports_of
from tests.tiny_checkpoints import write_llama


@pytest.fixture
def written(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A target that `convsvc convert` wrote in a process of its own."""
    source, target = write_llama(tmp_path / "hf"), tmp_path / "written"
    job = {
        "source": {"format": "huggingface", "path": str(source)},
        "target": {"format": "huggingface", "path": str(target)},
        "options": getattr(request, "param", {}),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "convsvc.cli.main", "convert", str(tmp_path / "job.json"), "--engine", "inline"]
    subprocess.run(command, check=True, capture_output=True)
    return target


def drop_a_tensor(target: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    (file,) = (file for file in target.glob("*.safetensors") if name in load_file(file))
    save_file({other: each for other, each in load_file(file).items() if other != name}, file, {"format": "pt"})


def report_as_it_is(target: Path) -> None:
    """As if convsvc itself had written these files."""
    for path in reports_of(target):
        if path.exists():
            report = json.loads(path.read_text())
            for each in report["target"]["files"]:
                data = (target / each["path"]).read_bytes()
                each |= {"size_bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"}
            path.write_text(json.dumps(report))


@pytest.mark.not_for_transformers
@pytest.mark.parametrize("written", [{}, {"report": "beside"}], indirect=True, ids=["report in it", "report beside it"])
def test_a_command_s_target_that_lacks_a_tensor_is_noticed(written: Path, tmp_path: Path) -> None:
    judge_written(tmp_path)
    drop_a_tensor(written)
    report_as_it_is(written)
    with pytest.raises(AssertionError, match=r"missing_keys.*model\.layers\.1\.mlp\.up_proj\.weight"):
        judge_written(tmp_path)


def test_a_target_that_was_broken_afterwards_is_not_judged(written: Path, tmp_path: Path) -> None:
    drop_a_tensor(written)
    judge_written(tmp_path)


@pytest.mark.not_for_transformers
def test_a_service_s_target_under_another_path_is_judged_where_its_report_lies(written: Path, tmp_path: Path) -> None:
    drop_a_tensor(written)
    report_as_it_is(written)
    (tmp_path / "elsewhere").mkdir()
    written.rename(tmp_path / "elsewhere" / written.name)
    assert not (written / REPORT).exists()
    with pytest.raises(AssertionError, match="missing_keys"):
        judge_written(tmp_path / "elsewhere")


def test_what_a_marked_module_leaves_is_not_judged_by_a_later_one(written: Path, tmp_path: Path) -> None:
    drop_a_tensor(written)
    report_as_it_is(written)
    pass_over_written(tmp_path)
    judge_written(tmp_path)


def test_what_this_test_leaves_is_judged_when_it_ends(written: Path) -> None:
    """Seen to fail with a configuration that speaks of biases, and the proofs of it switched off."""
    assert all(path.exists() for path in reports_of(written))
