"""The text decoder of a model whose other modules nobody has declared: converted alone, and put together again bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.errors import ConvsvcError, JobError
from convsvc.families import FAMILIES, Facts
from convsvc.models.wrapped import MARK, Place, find_place, placed
from convsvc.plan.planner import make_plan

TEXT = {
    "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 64, "tie_word_embeddings": False,
}  # fmt: skip
OUTER = {"architectures": ["SeeingForConditionalGeneration"], "model_type": "seeing", "vision_config": {"depth": 1}}
# What stands in place of `model.`, what before the head, and where the configuration keeps the text's numbers.
PLACES = {
    "transformers 5": ("model.language_model.", "", {**OUTER, "text_config": TEXT}),
    "older": ("language_model.model.", "language_model.", {**OUTER, "llm_config": TEXT}),
    "minicpm": ("llm.model.", "llm.", {**OUTER, "architectures": ["SeeingQwen3ForCausalLM"], **TEXT, "model_type": "seeing"}),
    "xgen": ("vlm.lang_model.model.", "vlm.lang_model.", {**OUTER, "text_config": {**TEXT, "model_type": "qwen3_vl_text"}}),
    "omni": ("thinker.model.", "thinker.", {**OUTER, "thinker_config": {"text_config": TEXT}}),
    "none": ("model.", "", {**OUTER, **TEXT, "model_type": "seeing_qwen3"}),
}


RANKS: dict[str, dict[str, Any]] = {
    "mindspeed-llm": {"format": "mindspeed-llm", "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "megatron": {"format": "megatron"},
    "megatron fsdp": {"format": "megatron", "storage": "fsdp_dtensor"},
    "megatron ranks": {"format": "megatron", "storage": "torch", "tensor_parallel_size": 2},
}


def write_wrapper(folder: Path, body: str, head: str, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A tiny Qwen3 with a tower beside it."""
    torch.manual_seed(7)
    model = FAMILIES["qwen3"].build(Facts(TEXT, "config.json"))
    names = {laid.name: laid.shape for laid in lay_model(model).kinds if laid.written}
    moved = {body + name.removeprefix("model.") if name.startswith("model.") else head + name: shape for name, shape in names.items()}
    tensors = {name: torch.randn(shape).bfloat16() for name, shape in moved.items()}
    tensors |= {"tower.blocks.0.weight": torch.randn(3, 5), "talker.model.norm.weight": torch.randn(4).half()}
    tensors |= {"tower.positions": torch.arange(5), "scale": torch.tensor(2.5)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


def same(have: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return have.keys() == want.keys() and all(have[name].dtype == want[name].dtype and torch.equal(have[name], want[name]) for name in want)


def job(source: dict[str, Any], target: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, **more}


@pytest.mark.parametrize(("place", "ranks"), [*((place, "mindspeed-llm") for place in PLACES), *(("older", ranks) for ranks in RANKS)])
def test_the_text_decoder_goes_to_rank_files_and_the_whole_directory_comes_back(place: str, ranks: str, tmp_path: Path) -> None:
    body, head, config = PLACES[place]
    tensors = write_wrapper(tmp_path / "hf", body, head, config)
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    there = {**RANKS[ranks], "path": str(tmp_path / "mg")}
    notes = convert(job(source, there), engine="inline").notes
    assert any(note.kind == "carried" and "4 tensor(s) of other modules" in note.text for note in notes)
    back = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(tmp_path / "hf")}
    again = {name: value for name, value in there.items() if name in ("format", "path", "storage")}
    convert(job(again, back), engine="inline")
    assert same(read(tmp_path / "back"), tensors)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config


@pytest.mark.parametrize("ranks", RANKS)
def test_a_tied_head_that_is_stored_too_comes_back(ranks: str, tmp_path: Path) -> None:
    config = {**OUTER, "tie_word_embeddings": True, "text_config": {**TEXT, "tie_word_embeddings": True}}
    tensors = write_wrapper(tmp_path / "hf", "language_model.model.", "language_model.", config)
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    convert(job(source, {**RANKS[ranks], "path": str(tmp_path / "mg")}), engine="inline")
    again = {name: value for name, value in RANKS[ranks].items() if name in ("format", "storage")}
    back = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(tmp_path / "hf")}
    convert(job({**again, "path": str(tmp_path / "mg")}, back), engine="inline")
    assert same(read(tmp_path / "back"), tensors)


# What a configuration calls its text part, and what is said in it beside the sizes.
PARTS: dict[str, dict[str, Any]] = {
    "language_config": {"language_config": TEXT},
    "decoder_config": {"decoder_config": TEXT},
    "an unlisted name": {"reasoner": TEXT, "talker_config": {**TEXT, "model_type": "qwen2"}},
    "one level down": {"model_config": {"lm": TEXT, "vision_config": {"num_layers": 3, "vocab_size": 9}}},
    "its class alone": {"text_config": {**{k: v for k, v in TEXT.items() if k != "model_type"}, "architectures": ["Qwen3ForCausalLM"]}},
}


@pytest.mark.parametrize("part", PARTS)
def test_the_text_part_is_found_by_what_it_says_whatever_it_is_called(part: str, tmp_path: Path) -> None:
    tensors = write_wrapper(tmp_path / "hf", "mllm.text.model.", "mllm.text.", {**OUTER, **PARTS[part]})
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    plan = make_plan(job(source, {"format": "huggingface", "path": str(tmp_path / "back")}))
    assert plan.model_type == "qwen3"
    assert {each.name for each in plan.target_tensors} == tensors.keys()


def test_of_two_parts_that_speak_neither_is_taken(tmp_path: Path) -> None:
    write_wrapper(tmp_path / "hf", "llm.model.", "llm.", {**OUTER, "one": TEXT, "other": TEXT})
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    with pytest.raises(JobError, match="its text part is of no known family"):
        make_plan(job(source, {"format": "huggingface", "path": str(tmp_path / "back")}))


@pytest.mark.parametrize("through", ["huggingface", "dcp"])
def test_formats_of_hugging_faces_names_hold_all_of_it(through: str, tmp_path: Path) -> None:
    tensors = write_wrapper(tmp_path / "hf", *PLACES["older"])
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    convert(job(source, {"format": through, "path": str(tmp_path / "there")}), engine="inline")
    again = {"format": through, "path": str(tmp_path / "there"), "modules": ["text_decoder"]}
    convert(job(again, {"format": "huggingface", "path": str(tmp_path / "back")}), engine="inline")
    assert same(read(tmp_path / "back"), tensors)


def test_unless_it_is_asked_for_the_model_is_refused_in_a_line_that_names_the_way(tmp_path: Path) -> None:
    write_wrapper(tmp_path / "hf", *PLACES["older"])
    plain = job({"format": "huggingface", "path": str(tmp_path / "hf")}, {"format": "mindspeed-llm", "path": str(tmp_path / "mg")})
    with pytest.raises(JobError) as refused:
        make_plan(plain)
    first = str(refused.value).splitlines()[0]
    assert "its text part (llm_config) is of the family qwen3; source.modules: [text_decoder] converts that" in first


def test_a_tower_that_a_format_has_no_place_for_names_the_way_too(tmp_path: Path) -> None:
    vision = {"depth": 0, "embed_dim": 4, "num_heads": 1, "mlp_ratio": 1, "hidden_size": 16, "patch_size": 1, "temporal_patch_size": 1,
              "spatial_merge_size": 1, "in_channels": 1}  # fmt: skip
    config = {**TEXT, "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": vision}
    model = FAMILIES["qwen2-vl"].build(Facts(config, "config.json"))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    tensors = {laid.name: torch.zeros(laid.shape) for laid in lay_model(model).kinds if laid.written}
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    source = {"format": "huggingface", "path": str(tmp_path / "hf")}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mg")}
    with pytest.raises(ConvsvcError, match=r"image_encoder.*source\.modules: \[text_decoder\]"):
        make_plan(job(source, target))
    plan = make_plan(job({**source, "modules": ["text_decoder"]}, target))
    assert (plan.model_type, plan.facts["modules"]) == ("qwen25", ["text_decoder"])


def test_an_unknown_tensor_in_the_decoders_layers_is_none_of_another_module(tmp_path: Path) -> None:
    tensors = write_wrapper(tmp_path / "hf", *PLACES["older"])
    save_file({**tensors, "language_model.model.layers.1.gate.weight": torch.zeros(3)}, tmp_path / "hf" / "model.safetensors")
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    with pytest.raises(ConvsvcError, match=r"language_model\.model\.layers\.1\.gate\.weight"):
        make_plan(job(source, {"format": "mindspeed-llm", "path": str(tmp_path / "mg")}))


def test_what_stands_among_the_decoders_own_names_is_carried_and_said(tmp_path: Path) -> None:
    tensors = write_wrapper(tmp_path / "hf", *PLACES["older"])
    added = {"language_model.model.embed_tokens.additional.weight": torch.zeros(3)}
    save_file({**tensors, **added}, tmp_path / "hf" / "model.safetensors")
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    plan = make_plan(job(source, {"format": "mindspeed-llm", "path": str(tmp_path / "mg")}))
    assert any(note.kind == "advice" and "1 of them stand among the text decoder's own" in note.text for note in plan.notes)


def test_the_job_says_the_family_where_the_configuration_shows_none(tmp_path: Path) -> None:
    config = {**OUTER, "text_config": {**TEXT, "model_type": "nobodys"}}
    write_wrapper(tmp_path / "hf", "language_model.model.", "language_model.", config)
    source = {"format": "huggingface", "path": str(tmp_path / "hf"), "modules": ["text_decoder"]}
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "mg")}
    with pytest.raises(JobError, match="is of no known family"):
        make_plan(job(source, target))
    convert(job(source, target, model_type="qwen3"), engine="inline")
    with pytest.raises(JobError, match="no tensors of a text decoder of the family chatglm"):
        make_plan(job(source, target, model_type="chatglm"))


def test_the_decoder_with_most_layers_is_the_one() -> None:
    family = FAMILIES["qwen3"]
    names = ["talker.model.embed_tokens.weight", "talker.model.layers.0.a", "thinker.model.embed_tokens.weight"]
    names += ["thinker.model.layers.0.a", "thinker.model.layers.1.a", "thinker.lm_head.weight", "talker.lm_head.weight"]
    assert find_place(names, family) == ("thinker.model.", "thinker.")
    assert find_place(["visual.layers.0.a"], family) is None


def test_a_family_that_has_no_model_in_front_lies_behind_a_prefix() -> None:
    names = ["llm.transformer.embedding.word_embeddings.weight", "llm.transformer.encoder.layers.0.input_layernorm.weight"]
    assert find_place(names, FAMILIES["chatglm"]) == ("model.", "llm.")


def test_a_mark_that_says_nothing_is_an_error() -> None:
    assert placed(FAMILIES, Facts({MARK: Place("qwen3", "a.", "", ()).words()}, "args")) is not None
    for mark in ({}, {"family": "nobodys", "body": "", "head": "", "inside": []}, "qwen3"):
        with pytest.raises(JobError, match="does not say where a text decoder lies"):
            placed(FAMILIES, Facts({MARK: mark}, "args"))
