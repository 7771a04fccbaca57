"""Before a target is published it is opened as whoever loads it would, and must be what the plan says: nothing is published else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.engine.listener import Listener
from convsvc.errors import VerifyError
from convsvc.execute.staging.sites import staging_path
from convsvc.plan.opened import check_opens
from convsvc.plan.planner import make_plan
from convsvc.plan.records import Task
from tests.plan.adapted_ranks import add_adapters
from tests.tiny_checkpoints import write_llama

RANK = "iter_0000001/mp_rank_00/model_optim_rng.pt"


class Meddling(Listener):
    """Changes what is staged once it is written and verified."""

    def __init__(self, staging: Path, change: Callable[[Path], None]) -> None:
        self.staging, self.change = staging, change

    def phase(self, name: str, total: int) -> None:
        if name == "reopen":
            self.change(self.staging)


def to_mcore(tmp_path: Path, **layout: Any) -> dict[str, Any]:
    write_llama(tmp_path / "hf", layers=4)
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), **layout}
    return {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": target}


def to_huggingface(tmp_path: Path) -> dict[str, Any]:
    convert(to_mcore(tmp_path, tensor_parallel_size=2), engine="inline")
    target = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(tmp_path / "hf")}
    return {"source": {"format": "mindspeed-llm", "path": str(tmp_path / "mcore")}, "target": target}


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def replace_text(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def config_saying(**fields: Any) -> Callable[[Path], None]:
    def change(staging: Path) -> None:
        config = json.loads((staging / "config.json").read_text())
        (staging / "config.json").write_text(json.dumps({**config, **fields}))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda staging: overwrite(staging / RANK, 0, bytes(64)), RANK),
        (lambda staging: replace_text(staging / RANK, b"embedding.word_embeddings", b"embedding.word_embeddinks"), "word_embeddings"),
        (lambda staging: replace_text(staging / RANK, b"BFloat16Storage", b"HalfStoragestag"), RANK),
        (lambda staging: (staging / RANK).unlink(), "mp_rank_00"),
        (lambda staging: (staging / "iter_0000001").rename(staging / "iter_0000007"), "iter_0000001"),
    ],
    ids=["zeroed header", "tensor's name", "dtype", "rank gone", "iteration"],
)
def test_rank_files_that_do_not_open_as_planned_are_not_published(change: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    job = to_mcore(tmp_path, tensor_parallel_size=2, pipeline_parallel_size=1)
    with pytest.raises(VerifyError) as caught:
        convert(job, engine="inline", listener=Meddling(staging_path(tmp_path / "mcore"), change))
    assert says in str(caught.value)
    assert "/proc/self" not in str(caught.value)
    assert not (tmp_path / "mcore").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda staging: (staging / "config.json").write_text("{}"), "config.json"),
        (lambda staging: overwrite(staging / "model-00001-of-00004.safetensors", 0, bytes(8)), "model-00001-of-00004.safetensors"),
        (lambda staging: (staging / "model-00002-of-00004.safetensors").unlink(), "model-00002-of-00004.safetensors"),
        (config_saying(num_hidden_layers=3), "model.layers.3"),
        (config_saying(num_attention_heads=2, num_key_value_heads=1, head_dim=8), "another model"),
        (config_saying(vocab_size=60), "model.embed_tokens.weight"),
    ],
    ids=["empty config", "header", "shard gone", "layers", "heads", "vocabulary"],
)
def test_a_hugging_face_target_that_does_not_open_as_planned_is_not_published(
    change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    job = to_huggingface(tmp_path)
    with pytest.raises(VerifyError) as caught:
        convert(job, engine="inline", listener=Meddling(staging_path(tmp_path / "back"), change))
    assert says in str(caught.value)
    assert not (tmp_path / "back").exists()


def alpha_changed(target: Path) -> None:
    config = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda staging: overwrite(staging / "adapter_model.safetensors", 0, bytes(16)), "adapter_model.safetensors"),
        (lambda staging: replace_text(staging / "adapter_model.safetensors", b"q_proj.lora_A", b"q_proj.lora_C"), "q_proj.lora_A"),
        (alpha_changed, "99"),
        (lambda staging: (staging / "adapter_config.json").unlink(), "adapter_config.json"),
    ],
    ids=["header", "tensor's name", "alpha", "configuration gone"],
)
def test_an_adapter_alone_is_opened_as_far_as_it_can_be(change: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    convert(to_mcore(tmp_path, tensor_parallel_size=2), engine="inline")
    assert add_adapters(tmp_path / "mcore", 2)
    source = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "lora": {"r": 2, "alpha": 4}}
    job = {"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "adapter"), "adapter_only": True}}
    convert(job, engine="inline")
    check_opens(make_plan(job), str(tmp_path / "adapter"))
    change(tmp_path / "adapter")
    with pytest.raises(VerifyError) as caught:
        check_opens(make_plan(job), str(tmp_path / "adapter"))
    assert says in str(caught.value)


def exchanged(task: Task, one: str, other: str) -> Task:
    """The task with two logical tensors written to each other's places."""
    writes = {transfer.name: transfer.writes for transfer in task.transfers}
    swapped = {one: writes.get(other, ()), other: writes.get(one, ())}
    return replace(task, transfers=tuple(replace(each, writes=swapped.get(each.name, each.writes)) for each in task.transfers))


def test_names_and_shapes_that_fit_are_not_enough_each_element_must_be_read_back_as_itself(tmp_path: Path) -> None:
    """The declaration that wrote and the one that reads could disagree on which of two equal tensors is which."""
    job = to_mcore(tmp_path, tensor_parallel_size=2)
    convert(job, engine="inline")
    plan = make_plan(job)
    check_opens(plan, str(tmp_path / "mcore"))
    one, other = (f"decoder.layers.0.{name}" for name in ("input_layernorm.weight", "pre_mlp_layernorm.weight"))
    names = {transfer.name for task in plan.tasks for transfer in task.transfers}
    assert {one, other} <= names
    wrong = replace(plan, tasks=tuple(exchanged(task, one, other) for task in plan.tasks))
    with pytest.raises(VerifyError) as caught:
        check_opens(wrong, str(tmp_path / "mcore"))
    assert "read back as" in str(caught.value)


def test_a_sound_target_is_opened_in_every_run_and_the_time_that_takes_is_told(tmp_path: Path) -> None:
    result = convert({**to_mcore(tmp_path), "options": {"verify": "none"}}, engine="inline")
    assert list(result.phase_seconds)[-2:] == ["reopen", "publish"]
