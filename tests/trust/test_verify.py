"""`convsvc verify` reads all of a target: whatever is changed in it, anywhere, is found and named."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert, verify
from convsvc.dialects.output import MANIFEST
from convsvc.errors import ConvsvcError, JobError, TargetError, VerifyError
from convsvc.execute.check import witness
from convsvc.plan.planner import make_plan
from convsvc.spec import parse_job
from tests.tiny_checkpoints import write_llama

Job = dict[str, Any]
SECOND = "iter_0000001/mp_rank_01/model_optim_rng.pt"
LAST = "model-00004-of-00004.safetensors"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A conversion each way, whose targets are changed and put right again; a padded vocabulary, and all that a directory is."""
    folder = tmp_path_factory.mktemp("jobs")
    write_llama(folder / "hf", layers=4)
    (folder / "hf/tokenizer.json").write_text('{"tokens": "of this model"}')
    mcore = {"format": "mindspeed-llm", "path": str(folder / "mcore"), "tensor_parallel_size": 2, "make_vocab_size_divisible_by": 36}
    there = {"source": {"format": "huggingface", "path": str(folder / "hf")}, "target": mcore}
    target = {"format": "huggingface", "path": str(folder / "back"), "config_dir": str(folder / "hf")}
    back = {"source": {"format": "mindspeed-llm", "path": str(folder / "mcore")}, "target": target}
    for job in (there, back):
        convert(job, engine="inline")
    return {"mcore": there, "huggingface": back}


@pytest.fixture(autouse=True)
def put_right(jobs: dict[str, Job]) -> Any:
    """Whatever a test does to the targets is undone."""
    kept = {path: path.read_bytes() for job in jobs.values() for path in Path(job["target"]["path"]).rglob("*") if path.is_file()}
    yield
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)


@pytest.fixture(autouse=True)
def without_witnesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have tests of their own, and it takes them seconds to load torch."""
    monkeypatch.setattr(witness, "call_witnesses", lambda plan, directory, crcs: None)


def tensor_bytes(job: Job, file: str, ending: str) -> tuple[int, int]:
    """Where a target's tensor begins and ends in its file."""
    plan = make_plan(parse_job(job))
    for tensor in plan.target_tensors:
        if plan.target_files[tensor.file].path == file and tensor.name.endswith(ending):
            return tensor.file_offset, tensor.file_offset + tensor.size_bytes
    raise LookupError(ending)


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def replica_changed(job: Job, target: Path) -> str:
    start, _ = tensor_bytes(job, SECOND, "final_layernorm.weight")
    overwrite(target / SECOND, start, b"\x12\x34")
    return "final_layernorm.weight in " + SECOND


def nan_in_the_padding(job: Job, target: Path) -> str:
    _, stop = tensor_bytes(job, SECOND, "word_embeddings.weight")
    overwrite(target / SECOND, stop - 4, b"\xc1\x7f")
    return "word_embeddings.weight in " + SECOND


def overwritten_pickle(job: Job, target: Path) -> str:
    data = (target / SECOND).read_bytes()
    at = data.index(b"\x80\x02")
    overwrite(target / SECOND, at, bytes(100))
    return SECOND


def wrong_checksum(job: Job, target: Path) -> str:
    """In a local header of the zip file: torch does not look at it."""
    at = (target / SECOND).read_bytes().index(b"PK\x03\x04", 200)
    overwrite(target / SECOND, at + 14, b"\xff\xff\xff\xff")
    return SECOND


def truncated(job: Job, target: Path) -> str:
    os.truncate(target / SECOND, (target / SECOND).stat().st_size - 100)
    return SECOND


def rank_deleted(job: Job, target: Path) -> str:
    (target / SECOND).unlink()
    return SECOND


def tracker_changed(job: Job, target: Path) -> str:
    (target / "latest_checkpointed_iteration.txt").write_text("5000")
    return "latest_checkpointed_iteration.txt"


def tracker_gone(job: Job, target: Path) -> str:
    (target / "latest_checkpointed_iteration.txt").unlink()
    return "latest_checkpointed_iteration.txt"


def zeroed_header(job: Job, target: Path) -> str:
    overwrite(target / LAST, 0, bytes(200))
    return LAST


def index_gone(job: Job, target: Path) -> str:
    (target / "model.safetensors.index.json").unlink()
    return "model.safetensors.index.json is not there"


def empty_config(job: Job, target: Path) -> str:
    (target / "config.json").write_text("{}")
    return "config.json"


def tokenizer_changed(job: Job, target: Path) -> str:
    (target / "tokenizer.json").write_text('{"tokens": "of that model"}')
    return "tokenizer.json"


def metadata_changed(job: Job, target: Path) -> str:
    """A word in a header that no tensor needs."""
    data = (target / LAST).read_bytes()
    overwrite(target / LAST, data.index(b'"pt"'), b'"tf"')
    return LAST


def shard_of_another(job: Job, target: Path) -> str:
    """Two shards of equal size exchanged, with their headers' names left as they are."""
    one, other = target / "model-00002-of-00004.safetensors", target / "model-00003-of-00004.safetensors"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return "model-0000"


BROKEN: list[tuple[str, Callable[[Job, Path], str]]] = [
    *(("mcore", change) for change in (replica_changed, nan_in_the_padding, overwritten_pickle, wrong_checksum, truncated)),
    *(("mcore", change) for change in (rank_deleted, tracker_changed, tracker_gone)),
    *(("huggingface", change) for change in (zeroed_header, index_gone, empty_config, tokenizer_changed, metadata_changed)),
    ("huggingface", shard_of_another),
]


@pytest.mark.parametrize(("which", "change"), BROKEN, ids=[f"{which}-{change.__name__}" for which, change in BROKEN])
def test_a_broken_target_is_found_and_what_is_broken_is_named(which: str, change: Callable[[Job, Path], str], jobs: dict[str, Job]) -> None:
    job = jobs[which]
    assert verify(job)["bytes_read"] > 0
    says = change(job, Path(job["target"]["path"]))
    with pytest.raises(VerifyError) as caught:
        verify(job)
    assert says in str(caught.value)


@pytest.mark.parametrize("which", ["mcore", "huggingface"])
def test_any_changed_byte_of_any_file_is_found(which: str, jobs: dict[str, Job]) -> None:
    """Drawn from all bytes, and as often from the few that are no tensors'; not of the manifest, which says only what may be removed."""
    job, drawn = jobs[which], random.Random(11)
    target = Path(job["target"]["path"])
    files = sorted(path for path in target.rglob("*") if path.is_file() and path.name != MANIFEST)
    for number in range(60):
        path = drawn.choice(files)
        data = path.read_bytes()
        at = drawn.randrange(min(len(data), 2000) if number % 2 else len(data))
        overwrite(path, at, bytes([data[at] ^ (1 << drawn.randrange(8))]))
        with pytest.raises(VerifyError):
            verify(job)
        path.write_bytes(data)
    verify(job)


def test_a_target_that_holds_more_tensors_than_planned_is_not_what_was_written(jobs: dict[str, Job]) -> None:
    job = jobs["mcore"]
    folder = Path(job["target"]["path"]) / "iter_0000001"
    (folder / "mp_rank_02").mkdir()
    more = folder / "mp_rank_02/model_optim_rng.pt"
    more.write_bytes((folder / "mp_rank_01/model_optim_rng.pt").read_bytes())
    try:
        with pytest.raises(VerifyError, match="mp_rank_02"):
            verify(job)
    finally:
        more.unlink()
        more.parent.rmdir()


def test_other_files_beside_the_weights_are_nobodys_business(jobs: dict[str, Job]) -> None:
    note = Path(jobs["huggingface"]["target"]["path"]) / "my-notes.txt"
    note.write_text("to be tried")
    verify(jobs["huggingface"])
    note.unlink()


def test_a_target_that_was_never_written_is_told_apart_from_a_broken_one(jobs: dict[str, Job], tmp_path: Path) -> None:
    job = {**jobs["mcore"], "target": {**jobs["mcore"]["target"], "path": str(tmp_path / "nothing")}}
    with pytest.raises(TargetError, match="run the job first"):
        verify(job)


def test_a_job_that_casts_is_verified_too_by_doing_it_again(jobs: dict[str, Job], tmp_path: Path) -> None:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "fp16"), "tensor_parallel_size": 2}
    job = {"source": jobs["mcore"]["source"], "target": target, "options": {"dtype": "fp16"}}
    convert(job, engine="inline")
    verify(job)
    start, _ = tensor_bytes(job, SECOND, "final_layernorm.weight")
    overwrite(tmp_path / "fp16" / SECOND, start, b"\x12\x34")
    with pytest.raises(VerifyError, match=r"final_layernorm\.weight"):
        verify(job)


def test_the_way_back_is_gone_too_where_the_job_says_so_and_refused_where_there_is_none(jobs: dict[str, Job], tmp_path: Path) -> None:
    full = {**jobs["mcore"], "options": {"verify": "full"}}
    assert verify(full)["bytes_read"] > verify(jobs["mcore"])["bytes_read"]
    with pytest.raises(JobError):
        verify({**full, "options": {"verify": "full", "dtype": "fp16"}})


def test_full_is_digest_and_roundtrip_and_every_other_byte(jobs: dict[str, Job], tmp_path: Path) -> None:
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "full"), "tensor_parallel_size": 2}
    result = convert({"source": jobs["mcore"]["source"], "target": target, "options": {"verify": "full"}}, engine="inline")
    assert {"verify", "compare", "reopen"} <= set(result.phase_seconds)


def test_what_differs_is_told_by_file_and_index(jobs: dict[str, Job]) -> None:
    job = jobs["huggingface"]
    start, _ = tensor_bytes(job, LAST, "layers.3.mlp.up_proj.weight")
    overwrite(Path(job["target"]["path"]) / LAST, start + 2 * (16 * 5 + 3), b"\x00\x40")
    with pytest.raises(ConvsvcError) as caught:
        verify(job)
    assert caught.value.details["index"] == [5, 3]
    assert caught.value.details["found"] == "0040"
    assert json.dumps(caught.value.details)
