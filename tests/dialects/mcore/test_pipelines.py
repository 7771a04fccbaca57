"""Pipelines as training states them in its args: each way gives back the model, and what is not known is named."""

from __future__ import annotations

import enum
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.saved_layout import parallel_of
from convsvc.errors import ConvsvcError, JobError, LayoutError, PlanError, SourceError
from convsvc.models.facts import Facts
from convsvc.plan.planner import make_plan
from tests.dialects.mcore.rank_files import assert_comes_back, back, say, write_ranks
from tests.tiny_checkpoints import write_llama

VPP = {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 2}


def test_a_first_stage_of_another_length(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 5, pipeline_parallel_size=3, num_layer_list=[1, 2, 2])
    say(mcore, decoder_first_pipeline_num_layers=1, decoder_last_pipeline_num_layers=None)
    assert_comes_back(mcore)


@pytest.mark.parametrize(
    "args",
    [
        {"virtual_pipeline_model_parallel_size": 2, "num_virtual_stages_per_pipeline_rank": 2},
        {"virtual_pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 2},
        {"num_virtual_stages_per_pipeline_rank": 2},
        {"pipeline_model_parallel_layout": "Ett|tt|tt|ttL"},
        {"pipeline_model_parallel_layout": "E(tt|)*3,ttL", "virtual_pipeline_model_parallel_size": 2},
        {
            "pipeline_model_parallel_layout": [
                ["embedding", "decoder", "decoder"],
                ["decoder"] * 2,
                ["decoder"] * 2,
                ["decoder", "t", "loss"],
            ]
        },
    ],
    ids=["by number", "by length", "by number before training", "pattern", "pattern with repeats", "lists"],
)
def test_virtual_stages_however_they_are_said(tmp_path: Path, args: dict[str, Any]) -> None:
    mcore = write_ranks(tmp_path, 8, **VPP)
    say(mcore, **args)
    assert_comes_back(mcore)


def test_megatrons_own_layout_object_is_read_for_what_it_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickled under Megatron's names, by classes that stand in for them."""
    module = types.ModuleType("megatron_stand_in")
    monkeypatch.setitem(sys.modules, "megatron_stand_in", module)
    module.LayerType = enum.Enum("LayerType", {"embedding": 1, "loss": 2, "decoder": 4}, module="megatron_stand_in")  # type: ignore[attr-defined]
    kinds = module.LayerType
    module.Layout = type("Layout", (), {"__module__": "megatron_stand_in"})  # type: ignore[attr-defined]
    layout = module.Layout()
    layout.input_data = [[kinds.embedding, kinds.decoder], [kinds.decoder] * 3, [kinds.decoder] * 3, [kinds.decoder, kinds.loss]]
    layout.layout = "whatever Megatron keeps beside"
    mcore = write_ranks(tmp_path, 8, pipeline_parallel_size=4, num_layer_list=[1, 3, 3, 1])
    say(mcore, pipeline_model_parallel_layout=layout)
    assert_comes_back(mcore)


def test_an_embedding_that_counts_as_a_layer(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 6, pipeline_parallel_size=2, num_layer_list=[3, 3])
    say(mcore, account_for_embedding_in_pipeline_split=True, account_for_loss_in_pipeline_split=True)
    assert_comes_back(mcore)
    mcore = (
        write_ranks(tmp_path / "other", 5, pipeline_parallel_size=2, num_layer_list=[2, 3])
        if (tmp_path / "other").mkdir() is None
        else mcore
    )
    say(mcore, account_for_embedding_in_pipeline_split=True)
    assert_comes_back(mcore)


def test_one_virtual_stage_is_read_as_training_loads_it(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 4, pipeline_parallel_size=2)
    say(mcore, num_layers_per_virtual_pipeline_stage=2, virtual_pipeline_model_parallel_size=None)
    assert_comes_back(mcore)


def test_one_virtual_stage_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"num_layers_per_virtual_pipeline_stage is 2, .* that is one virtual stage"):
        write_ranks(tmp_path, 4, **VPP)


@pytest.mark.parametrize(
    ("layers", "layout", "said"),
    [
        (5, {"pipeline_parallel_size": 3, "decoder_last_pipeline_num_layers": 1}, {"decoder_last_pipeline_num_layers": 1}),
        (
            8,
            {"pipeline_parallel_size": 2, "num_virtual_stages_per_pipeline_rank": 2},
            {"num_virtual_stages_per_pipeline_rank": 2, "virtual_pipeline_model_parallel_size": 2},
        ),
        (5, {"pipeline_parallel_size": 2, "account_for_loss_in_pipeline_split": True}, {"account_for_loss_in_pipeline_split": True}),
        (
            4,
            {"pipeline_parallel_size": 2, "pipeline_model_parallel_layout": "E,t*2|t|t|L"},
            {"pipeline_model_parallel_layout": "Ett|t|t|L", "virtual_pipeline_model_parallel_size": 2},
        ),
    ],
)
def test_what_is_written_says_so_in_trainings_names_and_comes_back(
    tmp_path: Path, layers: int, layout: dict[str, Any], said: dict[str, Any]
) -> None:
    mcore = write_ranks(tmp_path, layers, **layout)
    args = vars(torch.load(next(mcore.glob("*/*/model_optim_rng.pt")), weights_only=False)["args"])
    assert {name: args.get(name) for name in said} == said
    assert_comes_back(mcore)


def test_a_layout_of_the_source_is_not_handed_on(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 4, pipeline_parallel_size=2, pipeline_model_parallel_layout="Et|tttL")
    again = {"format": "mindspeed-llm", "path": str(tmp_path / "again"), "pipeline_parallel_size": 2}
    convert({"source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": again}, engine="inline")
    args = vars(torch.load(next((tmp_path / "again").glob("*/*/model_optim_rng.pt")), weights_only=False)["args"])
    assert "pipeline_model_parallel_layout" not in args


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"pipeline_num_transformer_layers": [[1, 3]]}, "pipeline_num_transformer_layers is [[1, 3]]"),
        ({"schedules_method": "zbv"}, "schedules_method is 'zbv'"),
        ({"encoder_pipeline_model_parallel_size": 1}, "encoder_pipeline_model_parallel_size is 1"),
        ({"standalone_embedding_stage": True}, "standalone_embedding_stage is True"),
        ({"pipeline_model_parallel_split_rank": 1}, "pipeline_model_parallel_split_rank is 1"),
        ({"transformer_pipeline_model_parallel_size": 1}, "transformer_pipeline_model_parallel_size is 1"),
        ({"hybrid_layer_pattern": "M-|M-"}, "hybrid_layer_pattern is 'M-|M-'"),
        ({"zero_bubble_v_schedule": True}, "zero_bubble_v_schedule is True"),
        ({"pipeline_model_parallel_layout": "Etx|tL"}, "'x'"),
        ({"pipeline_model_parallel_layout": 7}, "pipeline_model_parallel_layout is 7"),
        (
            {"virtual_pipeline_model_parallel_size": 2, "num_virtual_stages_per_pipeline_rank": 4},
            "num_virtual_stages_per_pipeline_rank is 4",
        ),
        ({"decoder_first_pipeline_num_layers": "two"}, "decoder_first_pipeline_num_layers is 'two'"),
    ],
)
def test_a_way_of_cutting_that_is_not_known_is_named(args: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError) as caught:
        parallel_of(Facts({"pipeline_model_parallel_size": 2, **args}, "args"))
    assert words in str(caught.value)


def test_args_of_the_pipeline_that_move_nothing_are_no_hindrance() -> None:
    """Training's defaults, and what is of messages and micro-batches (Megatron-LM's arguments of core 0.16)."""
    args = {
        "pipeline_model_parallel_size": 2, "pipeline_model_parallel_comm_backend": "nccl", "pipeline_dtype": "bf16",
        "overlap_p2p_comm": True, "microbatch_group_size_per_vp_stage": 2, "deallocate_pipeline_outputs": True,
        "encoder_pipeline_model_parallel_size": 0, "pipeline_model_parallel_split_rank": None, "standalone_embedding_stage": False,
        "transformer_pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": None, "hybrid_override_pattern": None,
        "account_for_embedding_in_pipeline_split": False, "num_virtual_stages_per_pipeline_rank": None, "vpp_size": None,
        "batch_p2p_comm": True, "recompute_num_layers": 1, "schedules_method": None, "num_layer_list": None, "noop_layers": None,
        "automated_pipeline": False,
    }  # fmt: skip
    assert parallel_of(Facts(args, "args")) == Parallel(pp=2)


def test_an_error_about_a_layout_begins_with_the_layout_that_was_assumed(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 8, **VPP)
    say(mcore, odd_virtual_stage=3)
    with pytest.raises(PlanError) as caught:
        make_plan(back(mcore))
    facts = caught.value.facts
    assert facts[0].startswith("assumed tp 1 (args.tensor_model_parallel_size), pp 2 (args.pipeline_model_parallel_size), ep 1")
    assert "8 layers (args.num_layers" in facts[0]
    assert "by stage 2 x 4 (evenly" in facts[0]
    assert facts[1] == "not known, and not considered: args.odd_virtual_stage is 3"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"decoder_first_pipeline_num_layers": 3}, "by stage 3, 5 (args.decoder_first_pipeline_num_layers)"),
        ({"pipeline_model_parallel_layout": "Et|t*7L"}, "by stage 1, 7 (args.pipeline_model_parallel_layout)"),
        ({"virtual_pipeline_model_parallel_size": 4}, "virtual stages (args.virtual_pipeline_model_parallel_size)"),
        ({"schedules_method": "dualpipev"}, "chunks down the stages and back (args.schedules_method)"),
        ({"virtual_pipeline_model_parallel_size": 3}, "by stage not possible"),
    ],
)
def test_it_says_which_argument_each_number_came_from(tmp_path: Path, args: dict[str, Any], words: str) -> None:
    mcore = write_ranks(tmp_path, 8, **VPP)
    say(mcore, **args)
    with pytest.raises(ConvsvcError) as caught:
        make_plan(back(mcore))
    assert words in caught.value.facts[0]


def test_what_the_job_states_of_virtual_stages_must_be_so(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 8, **VPP)
    say(mcore, virtual_pipeline_model_parallel_size=2)
    job = back(mcore)
    job["source"] |= {"num_virtual_stages_per_pipeline_rank": 2, "num_layers_per_virtual_pipeline_stage": 2}
    make_plan(job)
    job["source"]["num_virtual_stages_per_pipeline_rank"] = 4
    with pytest.raises(JobError, match="num_virtual_stages_per_pipeline_rank: stated 4, the checkpoint has 2"):
        make_plan(job)


def test_a_part_of_a_model_is_taken_from_hugging_face_only(tmp_path: Path) -> None:
    mcore = write_ranks(tmp_path, 4)
    with pytest.raises(JobError, match=r"options\.num_layers: a part of a model"):
        make_plan(back(mcore, num_layers=2))


def test_a_pattern_with_mtp_layers_needs_as_many_in_the_model(tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(write_llama(tmp_path / "hf", 3))}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "out"), "pipeline_parallel_size": 2}
    with pytest.raises(LayoutError, match="has 1 MTP layers, 0 are converted"):
        make_plan({"source": source, "target": {**target, "pipeline_model_parallel_layout": "Ett|tmL"}})


def test_mtp_layers_may_lie_before_the_output() -> None:
    placement = place_layers(4, Parallel(pp=2, pattern=("Et", "t", "tt", "m", "", "L")))
    assert (placement.mtp, placement.last) == ((1, 1), (1, 2))


@pytest.mark.parametrize("layout", [{"tensor_parallel_size": 2, "expert_tensor_parallel_size": 1}, {"moe_tp_extend_ep": True}])
def test_what_says_nothing_of_a_model_is_no_hindrance(tmp_path: Path, layout: dict[str, Any]) -> None:
    """How experts are cut, where there are none or one rank."""
    assert_comes_back(write_ranks(tmp_path, 2, **layout))
