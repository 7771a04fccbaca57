"""megatron.core loads our rank files strictly and computes what transformers computes from the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from tests.real_clients.pipelines import PIPELINES, ours
from tests.real_clients.ranks import World, run_world
from tests.real_clients.tiny_models import EXPERTS, SIZES, TOKENS, Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client

RANK_PROGRAM = Path(__file__).with_name("megatron_rank.py")
TOLERANCE = 1e-4
# Megatron has no bias on the MLP alone, and only MoE layers by a list; all else the families allow is here.
LLAMA = Tiny("llama2", "LlamaConfig", {"head_dim": 12})
QWEN25 = Tiny("qwen25", "Qwen2Config")
QWEN3 = Tiny("qwen3", "Qwen3Config", {"head_dim": 12})
MOE = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS})
PARTLY_DENSE = Tiny("qwen3-moe", "Qwen3MoeConfig", {"head_dim": 12, **EXPERTS, "mlp_only_layers": [0, 2]})


@dataclass(frozen=True, slots=True)
class Trial:
    """A model in a layout that one Megatron world of `world` ranks loads."""

    name: str
    tiny: Tiny
    world: int
    layout: dict[str, Any]
    tied: bool = False
    through: dict[str, Any] | None = None  # another format on the way, as a target


WHOLE = {"format": "mindformers"}
CUT = {
    "format": "mindformers",
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "data_parallel_size": 2,
    "optimizer_weight_shard_size": 2,
}
TRIALS = (
    tuple(
        Trial(f"{name}-tp{tp}", tiny, tp, {"tensor_parallel_size": tp, **layout}, tied)
        for tp in (1, 2)
        for name, tiny, layout, tied in (
            ("llama2", LLAMA, {}, False),
            ("llama2-padded-vocabulary", LLAMA, {"make_vocab_size_divisible_by": 24}, False),
            ("qwen25", QWEN25, {}, False),
            ("qwen25-tied", QWEN25, {}, True),
            ("qwen3", QWEN3, {}, False),
            ("qwen3-moe", MOE, {}, False),
            ("qwen3-moe-partly-dense", PARTLY_DENSE, {}, False),
            ("qwen3-moe-grouped", MOE, {"moe_grouped_gemm": True}, False),
        )
    )
    + tuple(
        Trial(
            f"qwen3-moe-{name}", MOE, 2, {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 1, **layout}
        )
        for name, layout in (("ep2-etp1", {}), ("ep2-etp1-grouped", {"moe_grouped_gemm": True}))
    )
    + tuple(
        Trial(f"{name}-pp2", tiny, 2, {"pipeline_parallel_size": 2, **layout}, tied)
        for name, tiny, layout, tied in (
            ("llama2", LLAMA, {}, False),
            ("qwen25-tied", QWEN25, {}, True),
            ("qwen3-vpp", QWEN3, {"num_layers_per_virtual_pipeline_stage": 1}, False),
            ("qwen3-moe-partly-dense-vpp", PARTLY_DENSE, {"num_layers_per_virtual_pipeline_stage": 1}, False),
        )
    )
    # Interleaved linear_fc1, grouped queries, an untied head, heads wider than hidden / heads.
    + tuple(
        Trial(f"{name}-from-mindformers", tiny, 2, {"tensor_parallel_size": 2}, through=through)
        for name, tiny, through in (
            ("llama2-whole", LLAMA, WHOLE),
            ("qwen3-whole", QWEN3, WHOLE),
            ("qwen3-cut", QWEN3, CUT),
            ("qwen25-cut", QWEN25, CUT),
            ("qwen3-moe-cut", MOE, {**CUT, "expert_parallel_size": 2}),
        )
    )
)


def make_world(size: int, folder: Path) -> World:
    expected, tasks = {}, []
    for trial in TRIALS:
        if trial.world == size:
            source, target = folder / f"{trial.name}-hf", folder / trial.name
            save_random(trial.tiny, source, dtype=torch.float32, tied=trial.tied)
            expected[trial.name] = logits(load(source)[0])
            given = {"format": "huggingface", "path": str(source)}
            if trial.through:
                between = {**trial.through, "path": str(folder / f"{trial.name}-between")}
                convert({"source": given, "target": between}, engine="inline")
                given = {"format": trial.through["format"], "path": between["path"]}
            convert({"source": given, "target": {"format": "mindspeed-llm", "path": str(target), **trial.layout}}, engine="inline")
            tasks.append(
                {"name": trial.name, "checkpoint": str(target), "tokens": TOKENS.tolist(), "saved": str(folder / f"{trial.name}-saved")}
            )
    if size == 1:
        tasks.append({"name": "pipelines", "pipelines": PIPELINES})
    return World(folder, run_world(RANK_PROGRAM, size, tasks, folder), expected)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, World]:
    """Starting Megatron takes seconds, so each world runs all its trials."""
    pytest.importorskip("megatron.core", reason="pip install megatron-core==0.16.1", exc_type=ImportError)
    return {size: make_world(size, tmp_path_factory.mktemp(f"world-{size}")) for size in (1, 2)}


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_every_rank_loads_strictly_and_the_logits_agree(trial: Trial, worlds: dict[int, World]) -> None:
    world = worlds[trial.world]
    for answers in world.answers:
        answer = answers[trial.name]
        assert "error" not in answer, answer["error"]
        assert not answer["mismatch"]
    want = world.expected[trial.name]
    have = torch.tensor(world.answers[-1][trial.name]["logits"])[..., : want.shape[-1]]
    assert (have - want).abs().max() <= TOLERANCE
    assert want.abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("trial", [pytest.param(trial, id=trial.name) for trial in TRIALS])
def test_what_megatron_saves_comes_back_bit_for_bit(trial: Trial, worlds: dict[int, World], tmp_path: Path) -> None:
    """The optimizer's state is in the same files; of the args only the family and, if it was padded, the vocabulary have to be told."""
    folder = worlds[trial.world].folder
    job: dict[str, Any] = {
        "model_type": trial.tiny.family,
        "source": {"format": "mindspeed-llm", "path": str(folder / f"{trial.name}-saved")},
        "target": {"format": "huggingface", "path": str(tmp_path / "back")},
        "options": {"vocab_size": SIZES["vocab_size"]},
    }
    convert(job, engine="inline")
    want, have = read_tensors(folder / f"{trial.name}-hf"), read_tensors(tmp_path / "back")
    assert set(want) == set(have)
    assert not [name for name, tensor in want.items() if not torch.equal(tensor, have[name])]


def test_every_layer_lies_where_megatron_builds_it_in_each_way_of_cutting(worlds: dict[int, World]) -> None:
    """Where the first and the last stage are said to hold more layers than there are, 0.16.1 builds some twice."""
    tables = list(zip(PIPELINES, worlds[1].answers[0]["pipelines"], strict=True))
    built = [
        each for each in tables if isinstance(each[1], list) and sum(len(stage) for row in each[1] for stage in row) == each[0]["layers"]
    ]
    differ = [(pipeline, have, want) for pipeline, want in built if (have := ours(pipeline)) != want]
    assert not differ, differ[:3]
    assert len(built) > 60


def test_a_pipeline_that_megatron_refuses_is_refused(worlds: dict[int, World]) -> None:
    """But for two stages that are both stated, with virtual stages: there 0.16.1 divides by the number of those between."""
    tables = list(zip(PIPELINES, worlds[1].answers[0]["pipelines"], strict=True))
    refused = [each for each in tables if isinstance(each[1], str) and not each[1].startswith("ZeroDivisionError")]
    accepted = [each for each in refused if isinstance(ours(each[0]), list)]
    assert not accepted, accepted[:3]
    assert len(refused) > 60


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
