"""Optimizer state of torch_dist becomes Megatron-FSDP's: main weights in the weights' place, moments and groups by weights' names."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import metadata as of
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.megatron import new_files
from convsvc.errors import ConvsvcError
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import numbered, same
from tests.dialects.megatron.test_delta_nets import directory as delta_directory
from tests.dialects.megatron.test_megatron import MLA, MOE, Tensors, in_boxes, keys_of, model_of, moe_directory, written
from tests.dialects.megatron.test_training import job_of
from tests.dialects.megatron.trained import GROUP, KINDS, SCHEDULE, train, words_of
from tests.tiny_checkpoints import write_llama

MODEL, STATE, META = "model.module.", "optimizer.state.", "optimizer.param_to_group_meta."
WRAPPERS = "module.module.module."  # of training in bf16
HEAD = f"{WRAPPERS}output_layer.weight"


def carried(source: Path, target: Path, options: dict[str, Any] | None = None, **stated: Any) -> tuple[Path, Any]:
    """The directory that has `.metadata`, and what came of the job."""
    result = convert(job_of(source, target, options, storage="fsdp_dtensor", **stated), engine="inline")
    return next(target.glob("*/.metadata")).parent, result


def unfolded(folder: Path, saved: Path) -> dict[str, Any]:
    """The nested state dict that was saved, as torch unfolds it."""
    dcp_to_torch_save(folder, saved)
    return dict(torch.load(saved, weights_only=False))


def expected(folder: Path, tensors: Tensors, place: Path, wrappers: str, **stated: Any) -> Tensors:
    """Each kind of state as what weights of its values become, which no state is asked of, by the names that it has here."""
    found: Tensors = {}
    weights = [name for name in tensors if not name.startswith("optimizer.")]
    for kind in KINDS:
        values = {name: tensors[f"optimizer.state.{kind}.{name}"] for name in weights}
        alone, _ = train(folder, place / kind, keys=values)
        made, _ = carried(alone, place / f"{kind}-out", {"state": "weights"}, **stated)
        for name, each in keys_of(made).items():
            moment = f"{STATE}{wrappers}{name.removeprefix(MODEL)}.{kind}"
            found[name if kind == "param" else moment] = each
    return found


def directory(path: Path, words: dict[str, Any], family: str) -> Path:
    """A Hugging Face checkpoint of a configuration."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(words))
    kinds = lay_model(model_of(words, family)).kinds
    save_file(numbered({laid.name: laid.shape for laid in kinds if laid.written}), path / "model.safetensors")
    return path


def rounded(tensors: Tensors) -> Tensors:
    """As training in bf16 has weights, not its state."""
    return {name: each if name.startswith("optimizer.") else each.bfloat16() for name, each in tensors.items()}


@pytest.mark.parametrize(
    ("form", "half", "stated"),
    [("per-layer", False, {}), ("stacked", True, {"chunk_size": "0.1KB"}), ("stacked", False, {"moe_grouped_gemm": False})],
    ids=["per-layer", "stacked-in-bf16-to-small-chunks", "stacked-to-modules"],
)
def test_every_weight_is_its_main_weight_and_has_its_moments_beside_it(
    tmp_path: Path, form: str, half: bool, stated: dict[str, Any]
) -> None:
    """Of a model with experts, cut anywhere; of one trained in bf16 the modules that wrap it are three."""
    folder = written(moe_directory(tmp_path / "hf"), tmp_path / "weights", layer_keys=form)
    trained, tensors = train(folder, tmp_path / "trained", cut=in_boxes, change=rounded if half else dict)
    made, result = carried(trained, tmp_path / "out", {"verify": "full"}, **stated)
    keys = keys_of(made)
    assert same(expected(folder, tensors, tmp_path / "kinds", "module." * (3 if half else 2), **stated), keys)
    assert {each.dtype for each in keys.values()} == {torch.float32}
    assert sum("main weights in their place" in note.text for note in result.notes) == 1


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return written(write_llama(tmp_path / "hf"), tmp_path / "weights")


ADAM = {"amsgrad": False, "foreach": None, "maximize": False, "capturable": False, "decoupled_weight_decay": True}


def test_a_state_dict_has_the_words_of_every_weights_group_and_of_the_schedule(tmp_path: Path, llama: Path) -> None:
    """As Megatron nests it (sharded_param_state_fsdp_dtensor): what has one dimension does not decay."""
    trained, _ = train(llama, tmp_path / "trained", num_floating_point_operations_so_far=1.5e9)
    made, _ = carried(trained, tmp_path / "out")
    assert made.name == "iter_0000007"
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "7"
    state = unfolded(made, tmp_path / "state.pt")
    assert (state["iteration"], state["checkpoint_version"], state["num_floating_point_operations_so_far"]) == (7, 3.0, 1.5e9)
    assert state["opt_param_scheduler"] == SCHEDULE
    assert (state["args"].consumed_train_samples, state["args"].no_save_optim) == (56, False)
    moments, meta = state["optimizer"]["state"], state["optimizer"]["param_to_group_meta"]
    assert all(set(kinds) == {"exp_avg", "exp_avg_sq"} for kinds in moments.values())
    gates = {name for name in moments if name.endswith(("_w", "_v"))}
    assert set(meta) == (set(moments) - gates) | {name[:-2] for name in gates}
    assert all(name.startswith("module.module.") for name in meta)
    for name, fields in meta.items():
        assert fields == {**GROUP, "wd_mult": 0.0 if "norm" in name else 1.0}
    assert {name.removeprefix("module.module.") for name in moments} == set(state["model"])


def test_torchs_adam_keeps_the_step_as_a_tensor_of_every_weights(tmp_path: Path, llama: Path) -> None:
    groups = [{**GROUP, **ADAM, "step": 7.0, "wd_mult": decay} for decay in (1.0, 0.0)]
    trained, _ = train(llama, tmp_path / "trained", optimizer={**words_of(), "optimizer": {"param_groups": groups}})
    optimizer = unfolded(carried(trained, tmp_path / "out")[0], tmp_path / "state.pt")["optimizer"]
    assert not any("step" in fields for fields in optimizer["param_to_group_meta"].values())
    for kinds in optimizer["state"].values():
        assert torch.equal(kinds["step"], torch.tensor(7.0))


def moe_trained(tmp_path: Path, groups: list[dict[str, Any]], **args: Any) -> Path:
    folder = written(moe_directory(tmp_path / "hf"), tmp_path / "weights")
    common = torch.load(folder / "common.pt", weights_only=False)
    vars(common["args"]).update(args)
    torch.save(common, folder / "common.pt")
    chain = {number: {**words_of(), "optimizer": {"param_groups": each}} for number, each in enumerate(groups)}
    return train(folder, tmp_path / "trained", optimizer=chain)[0]


def meta_of(trained: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    return dict(unfolded(carried(trained, tmp_path / "out")[0], tmp_path / "state.pt")["optimizer"]["param_to_group_meta"])


def test_experts_that_have_an_optimizer_of_their_own_have_its_groups_words(tmp_path: Path) -> None:
    dense = [GROUP, {**GROUP, "wd_mult": 0.0}]
    experts = [{**GROUP, "is_expert_parallel": True, "lr": 5e-5}]
    for name, fields in meta_of(moe_trained(tmp_path, [dense, experts]), tmp_path).items():
        assert fields["is_expert_parallel"] is (".experts." in name), name
        assert (fields["lr"] == 5e-5) is (".experts." in name), name


def test_ends_may_have_a_learning_rate_of_their_own_and_norms_of_queries_decay(tmp_path: Path) -> None:
    apart = {**GROUP, "is_decoupled_lr": True, "lr": 9.0}
    trained = moe_trained(tmp_path, [[GROUP, {**GROUP, "wd_mult": 0.0}, apart]], apply_wd_to_qk_layernorm=True)
    for name, fields in meta_of(trained, tmp_path).items():
        assert (fields["lr"] == 9.0) is name.endswith(("word_embeddings.weight", "output_layer.weight")), name
        assert (fields["wd_mult"] == 0.0) is ("norm" in name and "q_layernorm" not in name and "k_layernorm" not in name), name


def test_groups_that_nothing_tells_apart_are_an_error_that_names_a_weight(tmp_path: Path, llama: Path) -> None:
    groups = [GROUP, {**GROUP, "lr_mult": 0.1}, {**GROUP, "wd_mult": 0.0}]
    trained, _ = train(llama, tmp_path / "trained", optimizer={**words_of(), "optimizer": {"param_groups": groups}})
    with pytest.raises(ConvsvcError, match=r"embedding\.word_embeddings\.weight may be in 2 groups"):
        make_plan(job_of(trained, tmp_path / "out", storage="fsdp_dtensor"))


def test_what_is_frozen_keeps_its_weight(tmp_path: Path, llama: Path) -> None:
    frozen = "decoder.layers.mlp.linear_fc2.weight"

    def change(tensors: Tensors) -> Tensors:
        return {name: each for name, each in rounded(tensors).items() if not (name.startswith("optimizer.") and name.endswith(frozen))}

    trained, tensors = train(llama, tmp_path / "trained", change=change)
    keys = keys_of(carried(trained, tmp_path / "out")[0])
    for layer, each in enumerate(tensors[frozen].bfloat16()):
        assert torch.equal(keys[f"{MODEL}decoder.layers.{layer}.mlp.linear_fc2.weight"], each)
    assert not [name for name in keys if "linear_fc2" in name and name.startswith("optimizer")]


def test_it_goes_on_to_megatron_fsdp_again_with_all_it_has(tmp_path: Path, llama: Path) -> None:
    groups = [{**GROUP, **ADAM, "step": 7.0, "wd_mult": decay} for decay in (1.0, 0.0)]
    trained, _ = train(llama, tmp_path / "trained", change=rounded, optimizer={**words_of(), "optimizer": {"param_groups": groups}})
    first, _ = carried(trained, tmp_path / "first")
    second, result = carried(tmp_path / "first", tmp_path / "second", {"verify": "roundtrip"}, chunk_size="1KB")
    assert same(keys_of(first), keys_of(second))
    one, other = (unfolded(folder, tmp_path / f"{folder.parent.name}.pt") for folder in (first, second))
    assert one["optimizer"]["param_to_group_meta"] == other["optimizer"]["param_to_group_meta"]
    assert (one["iteration"], one["opt_param_scheduler"]) == (other["iteration"], other["opt_param_scheduler"])
    assert not [note for note in result.notes if "training state" in note.text]


def test_it_goes_on_without_megatron_fsdp_with_weights_that_are_main_weights(tmp_path: Path) -> None:
    folder = written(moe_directory(tmp_path / "hf"), tmp_path / "weights")
    trained, tensors = train(folder, tmp_path / "trained", change=rounded)
    carried(trained, tmp_path / "fsdp")
    result = convert(job_of(tmp_path / "fsdp", tmp_path / "out", {"verify": "roundtrip"}), engine="inline")
    made = next((tmp_path / "out").glob("*/.metadata")).parent
    weights = {name: tensors[f"{STATE}param.{name}"] for name in tensors if not name.startswith("optimizer.")}
    assert same(tensors | weights, keys_of(made))
    common = torch.load(made / "common.pt", weights_only=False)
    assert (
        sorted(common["optimizer"]["optimizer"]["param_groups"], key=lambda each: -each["wd_mult"])
        == words_of()["optimizer"]["param_groups"]
    )
    assert (common["iteration"], common["opt_param_scheduler"]) == (7, SCHEDULE)
    assert common["content_metadata"]["distrib_optim_sharding_type"] == "fully_reshardable"
    assert any("weights are main weights" in note.text for note in result.notes if note.kind == "changed")


@pytest.mark.parametrize("family", ["deepseek3", "qwen3-moe"])
def test_of_every_kind_of_layer_all_state_comes_back(tmp_path: Path, family: str) -> None:
    """Latent attention, shared experts and an MTP layer, of which buffers and what is carried have no state; one matrix for both ends."""
    words = MLA if family == "deepseek3" else MOE | {"tie_word_embeddings": True}
    folder = written(directory(tmp_path / "hf", words, family), tmp_path / "weights")

    def change(tensors: Tensors) -> Tensors:
        return {name: each for name, each in rounded(tensors).items() if not (name.startswith("optimizer.") and without_state(name))}

    def without_state(name: str) -> bool:
        return "expert_bias" in name or "carried" in name

    trained, tensors = train(folder, tmp_path / "trained", change=change, cut=in_boxes)
    carried(trained, tmp_path / "fsdp", {"verify": "roundtrip"})
    convert(job_of(tmp_path / "fsdp", tmp_path / "back", {"verify": "roundtrip"}), engine="inline")
    keys, want = keys_of(next((tmp_path / "back").glob("*/.metadata")).parent), change(tensors)
    main = {name: tensors[f"{STATE}param.{name}"] for name in want if f"{STATE}param.{name}" in want}
    assert same(want | main, keys)
    assert len(want) - 4 * len(main) == (3 if family == "deepseek3" else 0)


def test_groups_that_torch_dist_would_mix_up_are_an_error(tmp_path: Path) -> None:
    experts = [{**GROUP, "is_expert_parallel": True, "lr": 5e-5}]
    trained = moe_trained(tmp_path, [[GROUP, {**GROUP, "wd_mult": 0.0}, {**GROUP, "default_config": False, "lr": 9.0}], experts])
    carried(trained, tmp_path / "fsdp")
    with pytest.raises(ConvsvcError, match="two groups of the optimizer differ, and in none of wd_mult"):
        make_plan(job_of(tmp_path / "fsdp", tmp_path / "out"))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a loss scale": ({"optimizer": words_of(grad_scaler={"scale": torch.tensor([2.0])})}, "the loss scale is not kept"),
    "a tensor": (
        {"optimizer": {**words_of(), "optimizer": {"param_groups": [{**GROUP, "lr": torch.tensor(1.0)}]}}},
        "lr of a group is a tensor",
    ),
    "no distributed optimizer": ({"optimizer": words_of(None)}, "Megatron-FSDP's optimizer is distributed"),
    "no groups": ({"optimizer": {**words_of(), "optimizer": {"state": {}}}}, "the optimizer's words have no param_groups"),
    "no step": ({"optimizer": {**words_of(), "optimizer": {"param_groups": [{**GROUP, **ADAM, "step": "7"}]}}}, "says the step '7'"),
    "another optimizer": (
        {"change": lambda tensors: {name.replace("exp_avg_sq", "momentum"): each for name, each in tensors.items()}},
        "without a place: momentum; missing: exp_avg_sq",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_state_that_megatron_fsdp_has_no_place_for_is_an_error_that_names_it(tmp_path: Path, llama: Path, fault: str) -> None:
    given, said = FAULTS[fault]
    trained, _ = train(llama, tmp_path / "trained", **given)
    with pytest.raises(ConvsvcError) as raised:
        make_plan(job_of(trained, tmp_path / "out", storage="fsdp_dtensor"))
    assert said in str(raised.value)


def test_what_every_weight_says_of_its_group_is_kept_though_the_rules_say_another(tmp_path: Path, llama: Path) -> None:
    trained, _ = train(llama, tmp_path / "trained")
    place = carried(trained, tmp_path / "fsdp")[0] / ".metadata"
    metadata = pickle.loads(place.read_bytes())
    field, other = (of.MetadataIndex(f"{META}{name}.wd_mult") for name in (HEAD, f"{WRAPPERS}decoder.final_layernorm.weight"))
    metadata.storage_data[field] = metadata.storage_data[other]
    place.write_bytes(pickle.dumps(metadata))
    meta = meta_of(tmp_path / "fsdp", tmp_path)
    assert meta[HEAD]["wd_mult"] == 0.0
    assert meta[f"{WRAPPERS}embedding.word_embeddings.weight"]["wd_mult"] == 1.0


def test_args_say_that_training_is_in_bf16_though_main_weights_are_not(tmp_path: Path) -> None:
    trained = moe_trained(tmp_path, [[GROUP, {**GROUP, "wd_mult": 0.0}]], bf16=True, params_dtype=None)
    state = unfolded(carried(trained, tmp_path / "out")[0], tmp_path / "state.pt")
    assert state["args"].bf16 is True
    assert all(name.startswith(WRAPPERS) for name in state["optimizer"]["state"])


def broken(tmp_path: Path, llama: Path, change: Callable[[of.Metadata], object]) -> str:
    """What is said of a checkpoint of Megatron-FSDP of which something was changed in `.metadata`."""
    groups = [{**GROUP, **ADAM, "step": 7.0, "wd_mult": decay} for decay in (1.0, 0.0)]
    trained, _ = train(llama, tmp_path / "trained", optimizer={**words_of(), "optimizer": {"param_groups": groups}})
    place = carried(trained, tmp_path / "fsdp")[0] / ".metadata"
    metadata = pickle.loads(place.read_bytes())
    change(metadata)
    place.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ConvsvcError) as raised:
        make_plan(job_of(tmp_path / "fsdp", tmp_path / "out"))
    return str(raised.value)


def test_what_is_missing_of_megatron_fsdps_state_is_named(tmp_path: Path, llama: Path) -> None:
    def gone(what: str) -> Callable[[of.Metadata], object]:
        return lambda metadata: [metadata.state_dict_metadata.pop(name) for name in list(metadata.state_dict_metadata) if what in name]

    assert "in no group of the optimizer" in broken(tmp_path / "1", llama, gone(f"{META}{HEAD}"))
    assert "output_layer.weight: without exp_avg_sq" in broken(tmp_path / "2", llama, gone(f"{STATE}{HEAD}.exp_avg_sq"))
    assert "has no optimizer state" in broken(tmp_path / "3", llama, gone(STATE))


def test_words_that_are_none_are_errors(tmp_path: Path, llama: Path) -> None:
    def lost(metadata: of.Metadata) -> None:
        metadata.state_dict_metadata[f"{STATE}{HEAD}.step"].chunks.clear()

    def tensor(metadata: of.Metadata) -> None:
        step = metadata.state_dict_metadata[f"{STATE}{HEAD}.step"]
        metadata.state_dict_metadata[f"{META}{HEAD}.lr"] = step

    def twice(metadata: of.Metadata) -> None:
        first = of.MetadataIndex(f"{META}{HEAD}.lr")
        metadata.state_dict_metadata["opt_param_scheduler"] = of.BytesStorageMetadata()
        metadata.storage_data[of.MetadataIndex("opt_param_scheduler")] = metadata.storage_data[first]

    assert "step: no chunk holds it" in broken(tmp_path / "1", llama, lost)
    assert "lr is a tensor, no word of a group" in broken(tmp_path / "2", llama, tensor)
    assert "opt_param_scheduler is a value, and there are others in it" in broken(tmp_path / "3", llama, twice)


def test_more_names_than_are_read_again_are_refused_before_anything_is_written(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, _ = train(llama, tmp_path / "trained")
    size = (carried(trained, tmp_path / "out")[0] / ".metadata").stat().st_size
    monkeypatch.setattr(new_files, "LIMITS", replace(new_files.LIMITS, size_bytes=size - 1))
    with pytest.raises(ConvsvcError, match=rf"\.metadata would have {size} bytes, and at most {size - 1} are read"):
        make_plan(job_of(trained, tmp_path / "other", storage="fsdp_dtensor"))


def test_delta_nets_are_refused_by_name(tmp_path: Path) -> None:
    folder = written(delta_directory(tmp_path / "hf", torch.float32, torch.ones(5)), tmp_path / "weights")
    trained, _ = train(folder, tmp_path / "trained")
    with pytest.raises(ConvsvcError, match="mixers and delta nets in one matrix"):
        make_plan(job_of(trained, tmp_path / "out", storage="fsdp_dtensor"))
