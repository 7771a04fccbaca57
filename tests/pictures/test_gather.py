"""The picture's data says of every part of every tensor in which file it lies, and in few words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from operator import sub
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.planning import job as big_job
from benchmarks.sparse_models import MODELS, write_sparse_model
from convsvc.conversion import convert
from convsvc.errors import TargetExists
from convsvc.pictures.gather import Lying, Part, Side, compose_picture
from convsvc.pictures.of_checkpoint import picture_of_checkpoint
from convsvc.pictures.of_plan import picture_of_plan
from convsvc.pictures.page import render_page
from convsvc.plan.plan import Plan
from convsvc.plan.planner import make_plan
from tests.roundtrip.test_any_modules import write as write_modules
from tests.tiny_checkpoints import write_llama

LAYOUTS: list[dict[str, Any]] = [
    {"format": "mindspeed-llm", "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1},
    {"format": "dcp", "shards": 2},
    {"format": "megatron"},
    {"format": "mindformers", "tensor_parallel_size": 2},
    {"format": "huggingface"},
]
Told = set[tuple[str, int, str, int]]


def filled(template: str, numbers: list[int]) -> str:
    left = iter(numbers)
    return re.sub(r"\{\}", lambda _: str(next(left)), template)


def told(picture: dict[str, Any], side: int) -> Told:
    """(tensor, file, stored name, elements) of every part, as a page reads them."""
    return set(_told(picture, side))


def _told(picture: dict[str, Any], side: int) -> Iterator[tuple[str, int, str, int]]:
    for template, _, _, rows in picture["tensors"]:
        count = template.count("{}")
        for row in rows:
            for n in range(row[count]):
                numbers = [*row[: max(0, count - 1)], *([row[count - 1] + n] if count else [])]
                for name, files, box in picture["places"][row[count + 1 + side]]:
                    stored, less = picture["names"][name]
                    own = [numbers[at] - offset if at < count else -offset for at, offset in enumerate(less)]
                    for first, step, length in picture["sets"][files]:
                        for at in range(length):
                            yield filled(template, numbers), first + step * at, filled(stored, own), picture["boxes"][box][2]


def planned(plan: Plan, side: str) -> Told:
    """The same from the plan's transfers: what of a tensor lies in a stored tensor, all its boxes together."""
    tensors, counts = getattr(plan, f"{side}_tensors"), dict[tuple[str, int, str], int]()
    for task in plan.tasks:
        for transfer in task.transfers:
            for view in transfer.writes if side == "target" else (*transfer.reads, *transfer.checks):
                for place in view.places:
                    key = transfer.name, tensors[place.tensor].file, tensors[place.tensor].name
                    counts[key] = counts.get(key, 0) + prod(map(sub, view.stops, view.starts))
    return {(*key, count) for key, count in counts.items()}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return {"source": {"format": "huggingface", "path": str(write_llama(tmp_path / "hf", layers=4))}}


@pytest.mark.parametrize("layout", LAYOUTS, ids=[str(layout["format"]) for layout in LAYOUTS])
def test_a_plans_picture_says_where_every_part_of_every_tensor_lies_on_both_sides(
    job: dict[str, Any], tmp_path: Path, layout: dict[str, Any]
) -> None:
    plan = make_plan({**job, "target": {**layout, "path": str(tmp_path / "out")}})
    picture = picture_of_plan(plan)
    assert told(picture, 0) == planned(plan, "source")
    assert told(picture, 1) == planned(plan, "target")
    assert [file[1] for file in picture["sides"][1]["files"]] == [file.size_bytes for file in plan.target_files]


@pytest.mark.parametrize("layout", LAYOUTS, ids=[str(layout["format"]) for layout in LAYOUTS])
def test_a_checkpoints_picture_is_that_of_the_plan_that_made_it(job: dict[str, Any], tmp_path: Path, layout: dict[str, Any]) -> None:
    wanted = {**job, "target": {**layout, "path": str(tmp_path / "out")}, "options": {"report": "beside"}}
    plan = make_plan(wanted)
    convert(wanted, engine="inline")
    there, made = picture_of_checkpoint(str(tmp_path / "out")), picture_of_plan(plan)
    files = [[file[0] for file in side["files"]] for side in (there["sides"][0], made["sides"][1])]
    assert sorted(files[0]) == sorted(files[1])
    assert {(tensor, files[0][file], *more) for tensor, file, *more in told(there, 0)} == {
        (tensor, files[1][file], *more) for tensor, file, *more in told(made, 1)
    }


def test_a_model_of_several_modules_is_drawn_whole_to_rank_files_and_from_them(tmp_path: Path) -> None:
    write_modules("qwen3vl_moe", tmp_path / "hf")
    layout = {"tp_size": 2, "ep_size": 2, "vit_pp_layers": [[4, 0]], "llm_pp_layers": [[1, 3]]}
    ranks = {"format": "mindspeed-mm", "path": str(tmp_path / "out")}
    there = {"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": ranks | layout}
    plans = [make_plan(there)]
    convert(there, engine="inline")
    back = {"format": "huggingface", "path": str(tmp_path / "back")}
    plans.append(make_plan({"source": ranks | {"config_dir": str(tmp_path / "hf")}, "target": back}))
    for plan in plans:
        picture = picture_of_plan(plan)
        assert told(picture, 0) == planned(plan, "source")
        assert told(picture, 1) == planned(plan, "target")
    stored = [name for name, _ in picture_of_plan(plans[0])["names"]]
    assert all(any(module in name for name in stored) for module in ("image_encoder.", "text_decoder.")), stored


def test_experts_are_said_by_their_range(tmp_path: Path) -> None:
    config = MODELS["kimi-k2-1t"] | {"num_hidden_layers": 4, "n_routed_experts": 16}
    write_sparse_model(tmp_path / "moe", config)
    layout = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 8, "expert_tensor_parallel_size": 2}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "out"), **layout}
    plan = make_plan({"source": {"format": "huggingface", "path": str(tmp_path / "moe")}, "target": target})
    picture = picture_of_plan(plan)
    assert told(picture, 1) == planned(plan, "target")
    axes = {axis for _, axes, _, _ in picture["tensors"] for axis in axes}
    assert any("expert" in axis for axis in axes), axes


def test_what_lies_in_several_boxes_is_said_by_the_box_around_them_and_pieces_of_a_task_are_one() -> None:
    side = Side("checkpoint", "dcp", "/there", [("a", 1)])
    cut = [Part("w", (0,), (start, 0), (start + 2, 4)) for start in (0, 2, 6)]
    tensors = [Lying("w", ("row", "column"), (8, 4), (parts,)) for parts in (cut[:2], cut[2:])]
    picture = compose_picture("a title", {}, (side,), tensors)
    assert picture["boxes"] == [((0, 0), (8, 4), 24, 2)]
    assert len(picture["places"]) == 1


def test_a_trillion_parameters_in_two_thousand_rank_files_are_a_page_of_less_than_two_megabytes(tmp_path: Path) -> None:
    write_sparse_model(tmp_path / "kimi-k2-1t", MODELS["kimi-k2-1t"])
    wanted = big_job(tmp_path / "kimi-k2-1t", (8, 32, 8))
    plan = make_plan({**wanted, "target": {**wanted["target"], "path": str(tmp_path / "out")}})
    assert len(plan.target_files) == 2048
    assert len(render_page(picture_of_plan(plan)).encode()) < 2_000_000


def test_what_is_not_whole_is_drawn_as_it_lies_with_the_reason(job: dict[str, Any], tmp_path: Path) -> None:
    convert({**job, "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out"), "tensor_parallel_size": 2}}, engine="inline")
    lost = "decoder.layers.3.mlp.linear_fc2.weight"
    for rank in (0, 1):
        torch_save_without(tmp_path / "out" / "iter_0000001" / f"mp_rank_0{rank}" / "model_optim_rng.pt", lost)
    picture = picture_of_checkpoint(str(tmp_path / "out"))
    assert "linear_fc2" in picture["facts"]["problem"] or "missing" in picture["facts"]["problem"]
    parts = told(picture, 0)
    assert {file for name, file, _, _ in parts if name.endswith("decoder.layers.2.mlp.linear_fc2.weight")} == {0, 1}
    assert not [name for name, *_ in parts if name.endswith("decoder.layers.3.mlp.linear_fc2.weight")]


def torch_save_without(path: Path, name: str) -> None:
    state = torch.load(path, weights_only=False)
    del state["model"][name]
    torch.save(state, path)


def test_names_are_data_and_never_markup() -> None:
    evil = "</script><script>alert(1)</script><!-- {{ 7*7 }} {} 3"
    side = Side(evil, evil, evil, [(evil, 1)])
    picture = compose_picture(evil, {evil: evil}, (side,), [Lying(evil, (evil,), (1,), ([Part(evil, (0,), (0,), (1,))],))])
    page = render_page(picture)
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert page.count("<!--") == 1  # the one with which every picture begins
    data = page.partition('id="picture-data">')[2].partition("</script>")[0]
    assert json.loads(data)["sides"][0]["files"] == [[evil, 1]]


def test_a_conversion_leaves_its_picture_beside_the_target_unless_it_is_not_to(job: dict[str, Any], tmp_path: Path) -> None:
    wanted = {**job, "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out"), "tensor_parallel_size": 2}}
    convert(wanted, engine="inline")
    page = (tmp_path / "out.conversion-report.html").read_text()
    assert "mp_rank_01" in page
    assert not (tmp_path / "out" / "conversion-report.html").exists()
    convert({**wanted, "options": {"picture": "none", "on_exists": "overwrite"}}, engine="inline")
    assert not (tmp_path / "out.conversion-report.html").exists()


def test_what_is_no_picture_is_left_as_it_is(job: dict[str, Any], tmp_path: Path) -> None:
    mine = tmp_path / "out.conversion-report.html"
    mine.write_text("<!doctype html>\n<p>mine")
    with pytest.raises(TargetExists, match="is no report of a conversion"):
        convert({**job, "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out")}}, engine="inline")
    assert mine.read_text() == "<!doctype html>\n<p>mine"
