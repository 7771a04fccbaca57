"""Optimizer state goes from one distributed checkpoint to another with the weights it is of, bit for bit, in any form of keys."""

from __future__ import annotations

import json
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, JobError, LayoutError
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import fsdp2, same
from tests.dialects.megatron.test_delta_nets import directory as delta_directory
from tests.dialects.megatron.test_megatron import Tensors, in_boxes, keys_of, moe_directory, written
from tests.dialects.megatron.trained import GROUP, KINDS, SCHEDULE, in_fragments, moved, train, words_of
from tests.tiny_checkpoints import write_llama


def job_of(source: Path, target: Path, options: dict[str, Any] | None = None, **stated: Any) -> dict[str, Any]:
    return {
        "source": {"format": "megatron", "path": str(source)},
        "target": {"format": "megatron", "path": str(target), **stated},
        "options": {"state": "training", **(options or {})},
    }


def carried(source: Path, target: Path, options: dict[str, Any] | None = None, **stated: Any) -> tuple[Path, Any]:
    """The directory that has `.metadata`, and what came of the job."""
    result = convert(job_of(source, target, options, **stated), engine="inline")
    return next(target.glob("*/.metadata")).parent, result


def common_of(folder: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([Namespace]):
        return dict(torch.load(folder / "common.pt", weights_only=True))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return written(write_llama(tmp_path / "hf"), tmp_path / "weights", layer_keys="stacked")


@pytest.mark.parametrize(
    ("form", "layer_keys", "cut"),
    [("stacked", "per-layer", in_boxes), ("per-layer", "stacked", fsdp2(3)), ("stacked", "stacked", in_boxes)],
    ids=["stacked-to-per-layer-from-boxes", "per-layer-to-stacked-from-rows", "stacked-to-stacked-from-boxes"],
)
def test_state_is_carried_bit_for_bit_into_any_form(tmp_path: Path, form: str, layer_keys: str, cut: Any) -> None:
    """Of a model with experts, cut anywhere."""
    folder = written(moe_directory(tmp_path / "hf"), tmp_path / "weights", layer_keys=form)
    trained, tensors = train(folder, tmp_path / "trained", cut=cut)
    made, _ = carried(trained, tmp_path / "out", {"verify": "full"}, layer_keys=layer_keys, chunk_size="1KB")
    assert same(tensors if form == layer_keys else moved(tensors, form == "per-layer"), keys_of(made))


def test_training_goes_on_where_it_was(tmp_path: Path, llama: Path) -> None:
    trained, _ = train(llama, tmp_path / "trained", num_floating_point_operations_so_far=1.5e9)
    made, result = carried(trained, tmp_path / "out")
    assert made.name == "iter_0000007"
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "7"
    common = common_of(made)
    assert common["iteration"] == 7
    assert common["optimizer"] == words_of()
    assert common["opt_param_scheduler"] == SCHEDULE
    assert common["num_floating_point_operations_so_far"] == 1.5e9
    assert common["content_metadata"]["distrib_optim_sharding_type"] == "fully_reshardable"
    args = common["args"]
    assert (args.consumed_train_samples, args.no_save_rng, args.no_save_optim, args.vocab_size) == (56, True, False, 64)
    assert not [note for note in result.notes if "optimizer state" in note.text and note.kind == "ignored"]


def test_a_job_for_weights_names_the_state_that_it_leaves_out_and_begins_anew(tmp_path: Path, llama: Path) -> None:
    trained, _ = train(llama, tmp_path / "trained")
    made, result = carried(trained, tmp_path / "out", {"state": "weights"})
    assert made.name == "release"
    assert not [name for name in keys_of(made) if name.startswith("optimizer")]
    assert any("fully_reshardable" in note.text for note in result.notes if note.kind == "ignored")
    assert "state" not in make_plan(job_of(trained, tmp_path / "other", {"state": "weights"})).job["options"]


def test_rows_beyond_the_vocabulary_are_kept_as_they_were_trained_and_zeros_follow(tmp_path: Path) -> None:
    folder = written(write_llama(tmp_path / "hf"), tmp_path / "weights", make_vocab_size_divisible_by=48)

    def with_rows(tensors: Tensors) -> Tensors:
        return {name: each if "word_embeddings" not in name else each.fill_(3) for name, each in tensors.items()}

    trained, tensors = train(folder, tmp_path / "trained", change=with_rows)
    made, _ = carried(trained, tmp_path / "out", make_vocab_size_divisible_by=80)
    keys = keys_of(made)
    for name in ("embedding.word_embeddings.weight", "optimizer.state.exp_avg.embedding.word_embeddings.weight"):
        assert tensors[name].shape[0] == 96
        assert torch.equal(keys[name][:96], tensors[name])
        assert keys[name].shape[0] == 160
        assert not keys[name][96:].any()
    assert common_of(made)["args"].vocab_size == 64


def test_fewer_rows_are_written_where_the_job_says_the_vocabulary(tmp_path: Path) -> None:
    folder = written(write_llama(tmp_path / "hf"), tmp_path / "weights", make_vocab_size_divisible_by=48)

    def zeroed(tensors: Tensors) -> Tensors:
        for name, each in tensors.items():
            if "word_embeddings" in name or "output_layer" in name:
                each[64:] = 0
        return tensors

    trained, tensors = train(folder, tmp_path / "trained", change=zeroed)
    made, _ = carried(trained, tmp_path / "out", {"vocab_size": 64})
    assert torch.equal(
        keys_of(made)["optimizer.state.exp_avg_sq.output_layer.weight"], tensors["optimizer.state.exp_avg_sq.output_layer.weight"][:64]
    )


def counts_of(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Two tensor ranks; stacked layers and experts one by one, gates apart from what they gate."""
    lead = len(shape) - (2 if name.endswith("weight") and "norm" not in name else 1)
    inner = {"fc1.weight": (4, 1), "fc2.weight": (1, 2), "qkv.weight": (2, 1), "proj.weight": (1, 2), "embeddings.weight": (2, 1)}
    held = next((count for end, count in inner.items() if name.endswith(end)), (1,) * (len(shape) - lead))
    return (*shape[:lead], *held)


@pytest.mark.parametrize("before", ["", "chained_0."])
def test_state_of_core_before_0_15_is_upgraded(tmp_path: Path, before: str) -> None:
    """Flat within what a rank has, cut between data ranks anywhere."""

    def cut(name: str, shape: tuple[int, ...]) -> list[Any]:
        if "optimizer" not in name:
            return fsdp2(2)(name, shape)
        last = shape[-1]
        ends = [*range(0, last, 5), last]
        index = [()]
        for size in shape[:-1]:
            index = [(*at, number) for at in index for number in range(size)]
        return [
            (f"__{rank % 3}_0.distcp", (*at, a), (*(each + 1 for each in at), b))
            for at in index
            for rank, (a, b) in enumerate(pairwise(ends))
        ]

    folder = written(moe_directory(tmp_path / "hf"), tmp_path / "weights")
    words = words_of("fully_sharded_model_space")
    trained, tensors = train(
        folder,
        tmp_path / "trained",
        optimizer={0: words, 1: words} if before else words,
        change=lambda tensors: in_fragments(tensors, counts_of, before),
        cut=cut,
    )
    made, result = carried(trained, tmp_path / "out", layer_keys="per-layer")
    assert same(moved(tensors, stacked=False), keys_of(made))
    common = common_of(made)
    assert common["optimizer"] == ({0: words_of(), 1: words_of()} if before else words_of())
    assert common["content_metadata"]["distrib_optim_sharding_type"] == "fully_reshardable"
    assert any("fully_sharded_model_space" in note.text for note in result.notes if note.kind == "changed")
    assert bool(before) == any("2 optimizers" in note.text and "expert parallel size" in note.text for note in result.notes)


def test_an_optimizer_that_is_not_distributed_keeps_its_own_names_and_its_step(tmp_path: Path, llama: Path) -> None:
    def renamed(tensors: Tensors) -> Tensors:
        return {name.replace(".state.param.", ".state.fp32_param."): each for name, each in tensors.items()}

    words = {
        "optimizer": {"state": {"common_step": torch.tensor(7.0)}, "param_groups": [GROUP]},
        "grad_scaler": {"scale": torch.tensor([2.0])},
    }
    trained, tensors = train(llama, tmp_path / "trained", optimizer=words, change=renamed)
    made, _ = carried(trained, tmp_path / "out")
    assert same(renamed(tensors), keys_of(made))
    common = common_of(made)
    assert torch.equal(common["optimizer"]["optimizer"]["state"]["common_step"], torch.tensor(7.0))
    assert torch.equal(common["optimizer"]["grad_scaler"]["scale"], torch.tensor([2.0]))
    assert "distrib_optim_sharding_type" not in common["content_metadata"]


def test_words_may_lie_in_an_object_as_core_0_19_saves_them(tmp_path: Path, llama: Path) -> None:
    words = words_of(grad_scaler={"scale": torch.tensor([65536.0])})
    trained, tensors = train(llama, tmp_path / "trained", optimizer=words)
    (trained / "common.distcp").write_bytes(b"\0" * 64)
    torch.save([torch.load(trained / "common.pt", weights_only=False)], trained / "object")
    with (trained / "common.distcp").open("ab") as file:
        file.write((trained / "object").read_bytes())
    metadata = pickle.loads((trained / ".metadata").read_bytes())
    metadata.state_dict_metadata["common_state/shard_0_1"] = BytesStorageMetadata()
    place = _StorageInfo("common.distcp", 64, (trained / "object").stat().st_size)
    metadata.storage_data[MetadataIndex("common_state/shard_0_1")] = place
    (trained / ".metadata").write_bytes(pickle.dumps(metadata))
    (trained / "common.pt").unlink()
    made, _ = carried(trained, tmp_path / "out")
    assert same(tensors, keys_of(made))
    assert torch.equal(common_of(made)["optimizer"]["grad_scaler"]["scale"], torch.tensor([65536.0]))


def test_values_that_are_stored_less_1_are_carried_as_they_are(tmp_path: Path) -> None:
    norms = torch.tensor([1e-9, 0.1001, 0.7, 1.3, 2.1])
    folder = written(delta_directory(tmp_path / "hf", torch.float32, norms), tmp_path / "weights")

    def tiny(tensors: Tensors) -> Tensors:
        return {name: each * 1e-9 if name.endswith("out_norm.weight") else each for name, each in tensors.items()}

    trained, tensors = train(folder, tmp_path / "trained", change=tiny)
    made, _ = carried(trained, tmp_path / "out")
    assert same(tiny(tensors), keys_of(made))


def test_state_under_keys_of_singleton_local_shards_is_carried(tmp_path: Path) -> None:
    """Experts and halves of gates are keys of their own; each kind of state is what weights of its values would become."""
    hf = moe_directory(tmp_path / "hf")
    folder = written(hf, tmp_path / "weights")

    def single(folder: Path) -> Tensors:
        named = {name.removeprefix("model.module."): each for name, each in keys_of(folder).items()}
        return {re.sub(r"experts\.(linear_fc\d\.weight)(\d)", r"experts.experts.\2.\1", name): each for name, each in named.items()}

    keys = single(written(hf, tmp_path / "fsdp", storage="fsdp_dtensor"))
    trained, tensors = train(folder, tmp_path / "trained", keys=keys)
    made = keys_of(carried(trained, tmp_path / "out")[0])
    assert len(made) == 4 * len(keys_of(folder))
    for kind in KINDS:
        values = {name: tensors[f"optimizer.state.{kind}.{name}"] for name in keys}
        alone, _ = train(folder, tmp_path / kind, keys=values)
        expected = keys_of(carried(alone, tmp_path / f"{kind}-out", {"state": "weights"})[0])
        assert same(expected, {name: made[f"optimizer.state.{kind}.{name}"] for name in expected})


def test_what_is_hashed_has_hashes_of_state_too(tmp_path: Path, llama: Path) -> None:
    trained, tensors = train(llama, tmp_path / "trained")
    made, _ = carried(trained, tmp_path / "out", verify_integrity=True)
    assert same(tensors, keys_of(made))
    said = json.loads((made / "integrity.json").read_text())
    assert {file.name for file in made.glob("*.distcp")} <= set(re.findall(r"__\d+_\d+\.distcp", json.dumps(said)))


def without(*ends: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: each for name, each in tensors.items() if not name.endswith(ends)}


def test_what_is_frozen_has_no_state_and_is_named(tmp_path: Path, llama: Path) -> None:
    gone = without(*(f"{kind}.decoder.layers.mlp.linear_fc2.weight" for kind in ("param", "exp_avg", "exp_avg_sq")))
    trained, tensors = train(llama, tmp_path / "trained", change=gone)
    made, result = carried(trained, tmp_path / "out", layer_keys="per-layer")
    assert same(moved(gone(tensors), stacked=False), keys_of(made))
    assert any("decoder.layers.mlp.linear_fc2.weight" in note.text for note in result.notes if note.kind == "advice")


def test_layers_of_which_some_are_frozen_are_not_stacked(tmp_path: Path) -> None:
    folder = written(write_llama(tmp_path / "hf"), tmp_path / "weights", layer_keys="per-layer")
    gone = without(*(f"{kind}.decoder.layers.0.mlp.linear_fc2.weight" for kind in ("param", "exp_avg", "exp_avg_sq")))
    trained, tensors = train(folder, tmp_path / "trained", change=gone)
    assert same(gone(tensors), keys_of(carried(trained, tmp_path / "out", layer_keys="per-layer")[0]))
    with pytest.raises(LayoutError, match=r"none of decoder\.layers\.0\.mlp\.linear_fc2\.weight"):
        make_plan(job_of(trained, tmp_path / "stacked", layer_keys="stacked"))


BUCKET = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.float32).bucket_idx_0.exp_avg"
HEAD = "output_layer.weight"


def beside(*names: str, shape: tuple[int, ...] = (3,)) -> dict[str, Any]:
    return {"change": lambda tensors: {**tensors, **{name: torch.ones(shape) for name in names}}}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "buckets": (beside(BUCKET), "--dist-ckpt-optim-fully-reshardable"),
    "no state": (
        {"change": lambda tensors: {name: each for name, each in tensors.items() if "optim" not in name}},
        "has no optimizer state",
    ),
    "a part": ({"change": without("exp_avg.decoder.final_layernorm.weight")}, "decoder.final_layernorm.weight: without exp_avg"),
    "of nothing": (beside(*(f"optimizer.state.{kind}.x" for kind in KINDS)), "optimizer.state.exp_avg.x"),
    "a shape": (beside(f"optimizer.state.exp_avg.{HEAD}", shape=(64, 17)), f"optimizer.state.exp_avg.{HEAD}: expected [64, 16]"),
    "no words": ({"optimizer": "none"}, "no words of an optimizer"),
    "another kind": ({"optimizer": words_of("dp_zero_gather_scatter")}, "dp_zero_gather_scatter"),
    "an object": ({"optimizer": words_of(inner={1, 2})}, "optimizer/inner is a set"),
    "two optimizers": (beside(f"chained_1.optimizer.state.param.{HEAD}", shape=(64, 16)), "several optimizers"),
    "a large word": ({"optimizer": words_of(inner=torch.zeros(1 << 19))}, "is a tensor of 2097152 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_state_that_cannot_be_carried_is_an_error_that_says_what_to_do(tmp_path: Path, llama: Path, fault: str) -> None:
    given, said = FAULTS[fault]
    trained, _ = train(llama, tmp_path / "trained", **given)
    with pytest.raises(ConvsvcError) as raised:
        make_plan(job_of(trained, tmp_path / "out"))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "target",
    [{"format": "huggingface"}, {"format": "megatron", "storage": "torch"}],
    ids=str,
)
def test_a_target_that_has_no_place_for_it_refuses_before_anything_is_read(tmp_path: Path, target: dict[str, Any]) -> None:
    job = {**job_of(tmp_path / "nowhere", tmp_path / "out"), "target": {"path": str(tmp_path / "out"), **target}}
    with pytest.raises(JobError, match="optimizer state is not kept in a target"):
        make_plan(job)


def test_a_source_that_has_none_refuses(tmp_path: Path) -> None:
    job = job_of(tmp_path, tmp_path / "out") | {"source": {"format": "huggingface", "path": str(write_llama(tmp_path / "hf"))}}
    with pytest.raises(JobError, match="optimizer state is not kept in a source of huggingface"):
        make_plan(job)


def test_training_goes_on_with_the_model_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="dtype, num_layers: with state training"):
        make_plan(job_of(tmp_path, tmp_path / "out", {"dtype": "bf16", "num_layers": 1}))
    with pytest.raises(JobError, match="iteration is release"):
        make_plan(job_of(tmp_path, tmp_path / "out", iteration="release"))


def test_an_iteration_that_nobody_says_is_asked_for(tmp_path: Path, llama: Path) -> None:
    trained, _ = train(llama, tmp_path / "trained", iteration=0)
    with pytest.raises(JobError, match="does not say which iteration"):
        make_plan(job_of(trained, tmp_path / "out"))
    assert carried(trained, tmp_path / "out", iteration="12")[0].name == "iter_0000012"
    assert common_of(tmp_path / "out" / "iter_0000012")["iteration"] == 12
