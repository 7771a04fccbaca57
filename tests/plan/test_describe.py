"""`convsvc plan --tensors` says which tensor goes where, and all of it."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest

from convsvc.plan import tasks
from convsvc.plan.describe import Move, describe_moves
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    source = write_llama(tmp_path / "hf")
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mcore"), "tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    return make_plan({"source": {"format": "huggingface", "path": str(source)}, "target": target})


def test_a_tensor_is_found_by_its_name_on_either_side_and_its_boxes_bear_their_axes(plan: Plan) -> None:
    (move,) = describe_moves(plan, "layers.1.self_attn.k_proj")
    assert (move.source["name"], move.source["dtype"], move.source["shape"]) == ("model.layers.1.self_attn.k_proj.weight", "BF16", [8, 16])
    first, second = move.parts
    assert first.logical == second.logical == "decoder.layers.1.self_attention.linear_qkv.weight"
    assert [part.boxes for part in move.parts] == [
        ({"group": (half, half + 1), "slot": (2, 3), "head_dim": (0, 4), "hidden": (0, 16)},) for half in (0, 1)
    ]
    assert first.target["file"].endswith("mp_rank_00_001/model_optim_rng.pt")
    assert second.target["name"] == "model/decoder.layers.0.self_attention.linear_qkv.weight"
    fused = describe_moves(plan, "*mp_rank*"), describe_moves(plan, "model/decoder.layers.0.self_attention.linear_qkv.weight")
    assert not list(fused[0])
    assert {move.source["name"].rpartition("self_attn.")[2] for move in fused[1]} == {f"{name}_proj.weight" for name in "qkv"}


@pytest.mark.parametrize("largest", [tasks.MOST_BYTES, 256])
def test_every_element_of_every_target_tensor_is_told_of_once_however_the_plan_cuts_it(
    plan: Plan, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MOST_BYTES", largest)
    cut = make_plan(plan.job)
    moves = list(describe_moves(cut))
    told = Counter[tuple[str, str]]()
    for move in moves:
        for part in move.parts:
            told[part.target["file"], part.target["name"]] += sum(map(_volume, part.boxes))
    assert told == {(cut.target_files[each.file].path, each.name): prod(each.shape) for each in cut.target_tensors}
    assert [move.as_dict() for move in moves] == [move.as_dict() for move in describe_moves(plan)]
    assert (len(cut.tasks) > len(plan.tasks)) is (largest == 256)


def test_people_read_a_line_a_part(plan: Plan) -> None:
    (text,) = map(str, describe_moves(plan, "model.norm"))
    first, *parts = text.splitlines()
    assert first.endswith("model.safetensors: model.norm.weight BF16 [16]")
    assert parts == [
        f"  final_layernorm.weight [hidden 0:16] -> iter_0000001/mp_rank_0{rank}_001/model_optim_rng.pt: "
        "model/decoder.final_layernorm.weight BF16 [16]"
        for rank in (0, 1)
    ]


def test_a_name_that_is_on_neither_side_gives_nothing(plan: Plan) -> None:
    assert list(describe_moves(plan, "no_such_tensor")) == []


def _volume(box: Any) -> int:
    return prod(stop - start for start, stop in box.values())


def test_what_is_told_is_json(plan: Plan) -> None:
    move: Move = next(describe_moves(plan, "model.norm"))
    assert move.as_dict()["parts"][0]["boxes"] == [{"hidden": [0, 16]}]
