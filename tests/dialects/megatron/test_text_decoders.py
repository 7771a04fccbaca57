"""What stands before all keys is taken off; of a model of several modules the text decoder is converted, and the others are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.cli.main import main
from convsvc.comparison import compare
from convsvc.conversion import convert
from convsvc.dialects.megatron.job import MegatronSource
from convsvc.errors import SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from tests.dialects.dcp.made import in_safetensors, same
from tests.dialects.megatron.test_megatron import in_boxes, saved_again, without_words, written
from tests.tiny_checkpoints import write_llama

Tensors = dict[str, torch.Tensor]
TOWERS = {
    "vision_model.decoder.layers.self_attention.linear_qkv.weight": (2, 4, 4),
    "vision_model.conv1.weight": (4, 3, 2, 2),
    "vision_projection.encoder.linear_fc1.weight": (4, 4),
}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "hf")


def saved(hf: Path, folder: Path, prefix: str, towers: bool) -> Path:
    """With args as training saves them, an optimizer's state of what is saved, cut in boxes."""

    def change(keys: Tensors) -> Tensors:
        outer = prefix.removesuffix("language_model.")
        found = {prefix + name: each for name, each in keys.items()}
        found |= {outer + name: torch.randn(shape) for name, shape in TOWERS.items()} if towers else {}
        return found | {f"optimizer.state.exp_avg.{name}": torch.ones_like(each) for name, each in found.items()}

    return without_words(saved_again(written(hf, folder / "ours"), folder / "saved", in_boxes, change))


def job_of(source: Path, target: Path, **stated: Any) -> dict[str, Any]:
    return {"source": {"format": "megatron", "path": str(source), **stated}, "target": {"format": "huggingface", "path": str(target)}}


def around(hf: Path, target: Path) -> Path:
    """The configuration of a model that has this text decoder, as Hugging Face publishes such."""
    text = json.loads((hf / "config.json").read_text())
    target.mkdir()
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": text}
    (target / "config.json").write_text(json.dumps({**config, "vision_config": {"hidden_size": 4, "model_type": "clip_vision_model"}}))
    return target


@pytest.mark.parametrize("prefix", ["module.", "model.", "language_model.", "module.language_model."])
def test_any_prefix_is_taken_off(prefix: str, hf: Path, tmp_path: Path) -> None:
    source = saved(hf, tmp_path, prefix, towers=False)
    convert(job_of(source, tmp_path / "back", config_dir=str(hf)), engine="inline")
    assert same(in_safetensors(hf), in_safetensors(tmp_path / "back"))


@pytest.mark.parametrize("prefix", ["language_model.", "module.language_model."])
@pytest.mark.parametrize("nested", [False, True], ids=["text-config", "whole-config"])
def test_the_text_decoder_of_a_model_of_several_modules_is_converted(prefix: str, nested: bool, hf: Path, tmp_path: Path) -> None:
    """Its configuration is its own, or lies inside that of the whole model."""
    source = saved(hf, tmp_path, prefix, towers=True)
    config = around(hf, tmp_path / "vl") if nested else hf
    result = convert(job_of(source, tmp_path / "back", config_dir=str(config), modules=["text_decoder"]), engine="inline")
    assert same(in_safetensors(hf), in_safetensors(tmp_path / "back"))
    ignored = [note.text for note in result.notes if note.kind == "ignored"]
    assert "2 weights of vision_model are left out: text_decoder alone is asked for" in ignored
    assert "1 weights of vision_projection are left out: text_decoder alone is asked for" in ignored
    made = json.loads((tmp_path / "back" / "config.json").read_text())
    assert made["model_type"] == "llama"
    assert "text_config" not in made


def test_modules_that_nobody_asked_to_leave_out_are_an_error_that_says_how(hf: Path, tmp_path: Path) -> None:
    source = saved(hf, tmp_path, "language_model.", towers=True)
    with pytest.raises(SourceError, match="holds vision_model, vision_projection beside a text decoder") as error:
        make_plan(job_of(source, tmp_path / "back", config_dir=str(hf)))
    assert error.value.facts == ("2 weights of vision_model", "1 weights of vision_projection")
    assert "source.modules" in str(error.value.do)


def test_saved_args_are_the_decoders_own(hf: Path, tmp_path: Path) -> None:
    source = saved(hf, tmp_path, "language_model.", towers=True)
    job = {**job_of(source, tmp_path / "back", modules=["text_decoder"]), "model_type": "llama2"}
    convert({**job, "options": {"vocab_size": 64}}, engine="inline")
    assert same(in_safetensors(hf), in_safetensors(tmp_path / "back"))


def test_rank_files_have_no_such_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="modules"):
        MegatronSource(format="megatron", path=str(tmp_path), storage="torch", modules=("text_decoder",))


def test_inspect_says_what_else_there_is(hf: Path, tmp_path: Path) -> None:
    source = saved(hf, tmp_path, "language_model.", towers=True)
    with pytest.raises(SourceError, match="beside a text decoder"):
        inspect_checkpoint(str(source))


def wrapper(hf: Path, target: Path) -> Path:
    """The whole model as Hugging Face publishes it: its text decoder's weights under language_model., and a tower's."""
    held = {f"language_model.{name}": each for name, each in in_safetensors(hf).items()}
    tower = {"vision_tower.vision_model.embeddings.class_embedding": torch.randn(4)}
    save_file({**held, **tower}, around(hf, target) / "model.safetensors", metadata={"format": "pt"})
    return target


def test_text_decoders_are_compared_where_nothing_else_is_asked_for(hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, whole = saved(hf, tmp_path, "module.language_model.", towers=True), wrapper(hf, tmp_path / "vl")
    with pytest.raises(SourceError, match=r'state source.modules \["text_decoder"\]'):
        compare(str(source), str(whole))
    assert main(["verify", str(source), str(whole), "--modules", "text_decoder"]) == 0
    assert "1 tensors beside the text decoder are not compared" in capsys.readouterr().out
    answer = compare(str(source), str(whole), modules=["text_decoder"])
    assert answer["same"], answer
    assert answer["compared"] == 15
    held = load_file(whole / "model.safetensors")
    held["language_model.model.layers.1.mlp.down_proj.weight"][3, 1] += 1
    save_file(held, whole / "model.safetensors", metadata={"format": "pt"})
    assert [each["name"] for each in compare(str(source), str(whole), modules=["text_decoder"])["different"]] == [
        "decoder.layers.1.mlp.linear_fc2.weight"
    ]
