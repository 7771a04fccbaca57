"""Checkpoints that are not what they should be: each is refused before anything is written, with what was found and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, LayoutError, PlanError, SourceError
from convsvc.plan.planner import make_plan

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": False,
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 65,
}  # fmt: skip
INDEX = "model.safetensors.index.json"


def tensors() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (65, 16), "lm_head": (65, 16), "model.norm": (16,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj": (8 if name in "kv" else 16, 16) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj": (32, 16) for name in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj": (16, 32)} | {f"{prefix}.{name}_layernorm": (16,) for name in ("input", "post_attention")}
    return {f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two shards and an index."""
    path = tmp_path / "hf"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    names = list(tensors())
    everything = tensors()
    shards = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, held in shards.items():
        save_file({name: everything[name] for name in held}, path / file)
    (path / INDEX).write_text(json.dumps({"weight_map": {name: file for file, held in shards.items() for name in held}}))
    return path


def job(checkpoint: Path, **target: Any) -> dict[str, Any]:
    place = {"format": "mindspeed-llm", "path": str(checkpoint.parent / "mcore"), **target}
    return {"source": {"format": "huggingface", "path": str(checkpoint)}, "target": place}


def change_index(checkpoint: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((checkpoint / INDEX).read_text())
    change(index["weight_map"])
    (checkpoint / INDEX).write_text(json.dumps(index))


def change_shard(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = checkpoint / "model-00002-of-00002.safetensors"
    held = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(held)
    save_file(held, file)


def refusal(checkpoint: Path, kind: type[ConvsvcError], **target: Any) -> str:
    before = sorted(path.name for path in checkpoint.parent.iterdir())
    with pytest.raises(kind) as caught:
        convert(job(checkpoint, **target), engine="inline")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == before
    return str(caught.value)


def test_the_whole_checkpoint_is_accepted(checkpoint: Path) -> None:
    assert make_plan(job(checkpoint)).model_type == "llama2"


def test_an_index_that_names_a_missing_file_names_the_file(checkpoint: Path) -> None:
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(checkpoint, SourceError)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", ".."])
def test_an_index_does_not_lead_out_of_its_directory(checkpoint: Path, name: str) -> None:
    change_index(checkpoint, lambda where: where.update({"lm_head.weight": name}))
    assert "outside its directory" in refusal(checkpoint, SourceError)


def notes_of(checkpoint: Path) -> list[str]:
    return [str(note) for note in make_plan(job(checkpoint)).notes]


def test_an_index_that_names_the_wrong_file_is_read_as_transformers_does_with_a_note(checkpoint: Path) -> None:
    change_index(checkpoint, lambda where: where.update({"lm_head.weight": "model-00002-of-00002.safetensors"}))
    assert f"advice: 1 tensor(s) in another file than {INDEX} says; read where they are: lm_head.weight" in notes_of(checkpoint)


def test_a_tensor_the_index_does_not_know_is_read_as_transformers_does_with_a_note(checkpoint: Path) -> None:
    change_index(checkpoint, lambda where: [where.pop("lm_head.weight")])
    said = f"advice: 1 tensor(s) in a file of {INDEX}, which does not list them; read, as transformers does: lm_head.weight"
    assert said in notes_of(checkpoint)


def test_a_tensor_that_only_the_index_knows_is_noted_where_nothing_needs_it(checkpoint: Path) -> None:
    change_index(checkpoint, lambda where: where.update({"model.rotary.inv_freq": "model-00002-of-00002.safetensors"}))
    assert f"ignored: 1 tensor(s) in no file, though {INDEX} lists them: model.rotary.inv_freq" in notes_of(checkpoint)


def test_shards_without_an_index_are_refused(checkpoint: Path) -> None:
    (checkpoint / INDEX).unlink()
    assert INDEX in refusal(checkpoint, SourceError)


def test_a_wrong_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    change_shard(checkpoint, lambda held: held.update({name: held[name].T.contiguous()}))
    assert f"{name}: expected [16, 32], found [32, 16]" in refusal(checkpoint, PlanError)


def test_a_missing_tensor_and_one_left_over_are_both_named(checkpoint: Path) -> None:
    old, new = "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.extra.weight"
    change_shard(checkpoint, lambda held: held.update({new: held.pop(old)}))
    change_index(checkpoint, lambda where: where.update({new: where.pop(old)}))
    said = refusal(checkpoint, PlanError)
    assert f"missing   {old} [16, 32]" in said
    assert f"left over {new} [16, 32]" in said


def test_the_first_line_says_why_a_checkpoint_does_not_match(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())

    def first_line(**other: Any) -> str:
        (checkpoint / "config.json").write_text(json.dumps(config | other))
        return refusal(checkpoint, PlanError).splitlines()[0]

    assert first_line(num_hidden_layers=5) == (
        f"{checkpoint} is not a complete llama2 checkpoint: 27 missing (there is nothing of layers 2 to 4)"
    )
    assert first_line(intermediate_size=48).startswith(f"{checkpoint} does not fit its configuration: 6 of another shape")
    assert first_line(num_hidden_layers=1).startswith(f"{checkpoint} holds more than a llama2 checkpoint: 9 left over")
    missing = f"{checkpoint} is not a complete llama2 checkpoint: 1 missing (1 model.layers.*.mlp.up_proj.weight)"
    change_shard(checkpoint, lambda held: [held.pop("model.layers.1.mlp.up_proj.weight")])
    assert first_line() == missing
    assert f"note      1 tensor(s) in no file, though {INDEX} lists them: model.layers.1.mlp.up_proj.weight" in refusal(
        checkpoint, PlanError
    )


def test_a_model_of_the_other_names_is_said_to_have_other_names(checkpoint: Path) -> None:
    save_file(
        {name.replace("model.layers", "transformer.h"): tensor for name, tensor in tensors().items()}, checkpoint / "model.safetensors"
    )
    assert f"{checkpoint} has not the names of a llama2 checkpoint: 18 missing, 18 left over" in refusal(checkpoint, PlanError)


def test_tensors_of_two_dtypes_in_one_target_are_refused_unless_cast(checkpoint: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change_shard(checkpoint, lambda held: held.update({name: held[name].float()}))
    assert "would mix dtypes" in refusal(checkpoint, PlanError)
    assert make_plan({**job(checkpoint), "options": {"dtype": "fp32"}}).target_tensors[0].dtype == "F32"


def test_a_vocabulary_is_never_padded_in_silence(checkpoint: Path) -> None:
    assert "make_vocab_size_divisible_by" in refusal(checkpoint, LayoutError, tensor_parallel_size=2)
    plan = make_plan(job(checkpoint, tensor_parallel_size=2, make_vocab_size_divisible_by=16))
    assert any("padded with zero rows" in note.text for note in plan.notes)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_configuration_that_is_no_object_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert "config.json" in refusal(checkpoint, SourceError)


def test_a_rank_that_is_missing_is_named(checkpoint: Path) -> None:
    convert(job(checkpoint, pipeline_parallel_size=2), engine="inline")
    mcore = checkpoint.parent / "mcore"
    rank = mcore / "iter_0000001" / "mp_rank_00_001"
    (rank / "model_optim_rng.pt").unlink()
    back = {"source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": {"format": "huggingface", "path": str(mcore) + "-hf"}}
    with pytest.raises(SourceError, match="mp_rank_00_001"):
        make_plan(back)
    rank.rmdir()
    with pytest.raises(SourceError, match=r"1 of 2 rank directories are missing: mp_rank_00_001\n  assumed tp 1 .*, pp 2 .args"):
        make_plan(back)


@pytest.mark.parametrize("text", ["", "latest", "../..", "-1"])
def test_a_tracker_that_says_no_iteration_is_refused(checkpoint: Path, text: str) -> None:
    convert(job(checkpoint), engine="inline")
    mcore = checkpoint.parent / "mcore"
    (mcore / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(SourceError, match="must be a number or 'release'"):
        make_plan(
            {"source": {"format": "mindspeed-llm", "path": str(mcore)}, "target": {"format": "huggingface", "path": str(mcore) + "-hf"}}
        )
