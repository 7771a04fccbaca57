"""integrity.json says the SHA-256 of every file of an iteration, taken by the tasks that write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convsvc.conversion import convert, verify
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.output import MANIFEST
from convsvc.errors import JobError, SourceError, VerifyError
from convsvc.execute.staging import sealing
from convsvc.families import FAMILIES, Facts, Wanted
from convsvc.plan import tasks
from convsvc.plan.planner import make_plan
from tests.dialects.megatron.test_megatron import MLA, MOE
from tests.tiny_checkpoints import write_llama

INTEGRITY = "release/integrity.json"


def write_model(config: dict[str, Any], family: str, target: Path) -> None:
    target.mkdir(parents=True)
    model = FAMILIES[family].build(Facts(config, "config.json"), Wanted(num_mtp=config.get("num_nextn_predict_layers", 0)))
    torch.manual_seed(3)
    tensors = {laid.name: torch.randn(laid.shape).bfloat16() for laid in lay_model(model).kinds}
    for name in [name for name in tensors if name.endswith(("embed_tokens.weight", "shared_head.head.weight"))]:
        tensors[name] = tensors["model.embed_tokens.weight" if "embed" in name else "lm_head.weight"].clone()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text(json.dumps(config))


WRITERS: dict[str, Callable[[Path], object]] = {
    "llama": write_llama,
    "qwen3-moe": lambda path: write_model(MOE, "qwen3-moe", path),
    "deepseek3": lambda path: write_model(MLA, "deepseek3", path),
}


def job_of(tmp_path: Path, **stated: Any) -> dict[str, Any]:
    target = {"format": "megatron", "path": str(tmp_path / "target"), "verify_integrity": True, **stated}
    return {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": target}


def said(tmp_path: Path) -> dict[str, str]:
    document = json.loads((tmp_path / "target" / INTEGRITY).read_text())
    assert document["algorithm"] == "sha256"
    return dict(document["files"])


def never(descriptor: int) -> str:
    raise AssertionError("a file is read once more to be hashed")


@pytest.mark.parametrize("model", WRITERS)
@pytest.mark.parametrize("stated", [{}, {"chunk_size": "0.05KB", "layer_keys": "per-layer"}], ids=["whole", "chunks"])
def test_every_file_but_itself_is_hashed_by_the_task_that_writes_it(
    model: str, stated: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small tasks; what is padded with zero rows is hashed with them."""
    monkeypatch.setattr(sealing, "hash_file", never)
    monkeypatch.setattr(tasks, "MOST_BYTES", 1500)
    monkeypatch.setattr(tasks, "FEW_BYTES", 100)
    WRITERS[model](tmp_path / "hf")
    job = job_of(tmp_path, make_vocab_size_divisible_by=64, **stated)
    result = convert(job, engine="inline")
    assert result.tasks_done > 3
    folder = tmp_path / "target" / "release"
    assert said(tmp_path) == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "integrity.json"
    }


def test_a_file_of_what_is_hashed_is_written_by_one_task_and_no_larger_than_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MOST_BYTES", 1500)
    write_model(MOE, "qwen3-moe", tmp_path / "hf")
    plan = make_plan(job_of(tmp_path, chunk_size="0.2KB"))
    writers: dict[int, set[int]] = {}
    for task in plan.tasks:
        for transfer in task.transfers:
            for tensor in (place.tensor for view in transfer.writes for place in view.places):
                writers.setdefault(plan.target_tensors[tensor].file, set()).add(task.id)
    assert len(plan.tasks) > 3
    assert set(map(len, writers.values())) == {1}
    held = [sum(each.size_bytes for each in plan.target_tensors if each.file == file) for file in writers]
    assert max(held) <= 200
    assert max(sum(1 for each in plan.target_tensors if each.file == file) for file in writers) > 1


def test_a_changed_file_and_a_changed_list_are_found(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    job = job_of(tmp_path)
    convert(job, engine="inline")
    verify(job)
    path = tmp_path / "target" / INTEGRITY
    whole = json.loads(path.read_text())
    for file, expected in (("__1_0.distcp", "are not what the list of their hashes says"), (".metadata", "side files are not")):
        path.write_text(json.dumps({**whole, "files": {**whole["files"], file: "0" * 64}}, indent=2))
        (tmp_path / "target" / MANIFEST).unlink(missing_ok=True)  # which says of every file what was written
        with pytest.raises(VerifyError, match=expected) as error:
            verify(job)
        assert any(file in fact for fact in error.value.facts)


@pytest.mark.parametrize("text", ["", "[]", '{"files": []}', '{"files": {"a": 1}}', '{"files": {}}'])
def test_a_list_of_hashes_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    job = job_of(tmp_path)
    convert(job, engine="inline")
    (tmp_path / "target" / INTEGRITY).write_text(text)
    with pytest.raises(VerifyError, match="side files are not"):
        verify(job)


def test_it_is_of_torch_dist_alone_and_nobody_pays_for_it_unasked(tmp_path: Path) -> None:
    write_llama(tmp_path / "hf")
    for storage in ("torch", "fsdp_dtensor"):
        with pytest.raises(JobError, match=r"verify_integrity: Megatron has integrity\.json in torch_dist alone"):
            make_plan(job_of(tmp_path, storage=storage))
    plan = make_plan(job_of(tmp_path, verify_integrity=False))
    assert not plan.is_hashed
    assert not [side for side in plan.side_files if side.path == INTEGRITY]


def source_of(tmp_path: Path, **stated: Any) -> dict[str, Any]:
    return {
        "source": {"format": "megatron", "path": str(tmp_path / "target"), **stated},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
    }


@pytest.fixture
def hashed(tmp_path: Path) -> Path:
    write_llama(tmp_path / "hf")
    convert(job_of(tmp_path), engine="inline")
    return tmp_path / "target" / "release"


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_source_says_that_hashes_are_there_and_compares_all_where_asked(hashed: Path, tmp_path: Path) -> None:
    notes = [note.text for note in make_plan(source_of(tmp_path)).notes]
    assert any(text.startswith("integrity.json has the hashes of") for text in notes), notes
    plan = make_plan(source_of(tmp_path, verify_integrity=True))
    assert not [note for note in plan.notes if "integrity.json" in note.text]
    turn_a_bit(hashed / "__1_0.distcp")
    make_plan(source_of(tmp_path))
    with pytest.raises(SourceError, match=r"1 files of .* are not what integrity\.json says") as error:
        make_plan(source_of(tmp_path, verify_integrity=True))
    assert error.value.facts[0].startswith("__1_0.distcp: expected ")


@pytest.mark.parametrize("name", ["metadata.json", "common.pt", ".metadata"])
def test_a_changed_file_of_words_is_named_unasked(name: str, hashed: Path, tmp_path: Path) -> None:
    turn_a_bit(hashed / name)
    with pytest.raises(SourceError, match=r"are not what integrity\.json says") as error:
        make_plan(source_of(tmp_path))
    assert error.value.facts[0].startswith(name)


def test_a_file_that_is_gone_and_a_list_that_is_gone_are_named(hashed: Path, tmp_path: Path) -> None:
    (hashed / "__0_0.distcp").unlink()
    with pytest.raises(SourceError) as error:
        make_plan(source_of(tmp_path, verify_integrity=True))
    assert error.value.facts == ("__0_0.distcp: is not there",)
    (hashed / "integrity.json").unlink()
    with pytest.raises(SourceError, match=r"has no integrity\.json, and source\.verify_integrity asks for it"):
        make_plan(source_of(tmp_path, verify_integrity=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "not a JSON object"),
        ('{"algorithm": "md5", "files": {}}', "has hashes of 'md5'"),
        ('{"files": ["a"]}', "has no hashes by file names"),
        ('{"files": {"a": 1}}', "has no hashes by file names"),
        ('{"files": {"../../etc/passwd": "00"}}', "names what is no file beside it"),
    ],
)
def test_a_hostile_list_is_an_error(text: str, expected: str, hashed: Path, tmp_path: Path) -> None:
    (hashed / "integrity.json").write_text(text)
    with pytest.raises(SourceError, match=expected):
        make_plan(source_of(tmp_path))
