"""A quantised release comes back as it was published, from training's layout, too: the same codes, scales and words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import JobError, SourceError, VerifyError
from convsvc.plan import planner
from convsvc.plan.planner import make_plan
from convsvc.plan.published import give_back
from tests.encodings.test_writing import assert_same, ranks, to_huggingface, written_in
from tests.plan.test_quantised import FORMS, LAYOUT, QUANTISATION, save, twins

MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


def there_and_back(hf: Path, root: Path, target: dict[str, Any] | None = None, **options: Any) -> Path:
    """The release as training has it, and from there as it was published."""
    job = {
        "source": {"format": "huggingface", "path": str(hf)},
        "target": {"path": str(root / "there"), **(target or {"format": "mindspeed-llm", **LAYOUT})},
        "options": options,
    }
    convert(job, engine="inline")
    kept = {name: value for name, value in job["target"].items() if name in ("format", "storage")}
    back = to_huggingface({**kept, "path": str(root / "there")}, root / "back", config_dir=str(hf), quantization="like-source")
    convert({**back, "options": {"dtype": "bf16"}} if options else back, engine="inline")
    return root / "back"


def config_of(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "config.json").read_text()))


@pytest.mark.not_for_transformers  # its class reads no scales under these names
@pytest.mark.parametrize("form", FORMS)
def test_float8_comes_back_from_ranks_as_it_was_published(form: str, tmp_path: Path) -> None:
    quantised, _ = twins(form)
    hf = save(tmp_path / "fp8", quantised, QUANTISATION if form == "blocks" else MODELOPT)
    back = there_and_back(hf, tmp_path)
    assert_same(written_in(back), quantised)
    assert config_of(back) == config_of(hf)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ({"format": "dcp"}, {"dtype": "fp32"}),
        ({"format": "dcp", "shards": 2}, {"dtype": "fp16"}),
        ({"format": "megatron", "storage": "torch_dist"}, {}),
        ({"format": "megatron", "storage": "torch", "tensor_parallel_size": 2}, {"dtype": "fp32"}),
        ({"format": "mindspeed-llm", "tensor_parallel_size": 4}, {}),
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_float8_comes_back_from_every_format_that_trains_in_whatever_it_was_trained_in(
    target: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    back = written_in(there_and_back(hf, tmp_path, target, **options))
    assert back.keys() == quantised.keys()
    scaled = {name: tensor for name, tensor in quantised.items() if "_proj." in name}
    assert_same({name: back[name] for name in scaled}, scaled)


def test_float8_comes_back_from_another_directory_as_it_was_published(tmp_path: Path) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    job = to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "again", quantization="like-source")
    convert({**job, "options": {"verify": "full", "max_shard_size": "100KB"}}, engine="inline")
    assert_same(written_in(tmp_path / "again"), quantised)
    assert (tmp_path / "again" / "config.json").read_bytes() == (hf / "config.json").read_bytes()


def test_the_conversion_to_training_is_verified_by_the_way_back_to_the_bytes_that_were_published(tmp_path: Path) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks"), **LAYOUT}
    job = {"source": {"format": "huggingface", "path": str(hf)}, "target": target, "options": {"verify": "full"}}
    convert(job, engine="inline")
    without = {**job, "target": {**target, "path": str(tmp_path / "other")}}
    with pytest.raises(JobError, match="F8_E4M3 to BF16"):
        convert({**without, "options": {"verify": "full", "carry_scales": False}}, engine="inline")


def trained(hf: Path, root: Path, name: str, change: Any) -> dict[str, Any]:
    """The release in a directory of bf16, with its scales, after training has changed a weight."""
    there = {"format": "dcp", "path": str(root / "there")}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": there}, engine="inline")
    weights = root / "bf16"
    convert({"source": there, "target": {"format": "huggingface", "path": str(weights), "config_dir": str(hf)}}, engine="inline")
    for path in weights.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = change(tensors[name])
            save_file(tensors, path)
    for file in (root / "there").glob("published.*"):
        shutil.copy(file, weights)
    return {"format": "huggingface", "path": str(weights)}


def test_what_was_trained_since_gets_new_scales_where_it_is_another_and_the_report_names_it(tmp_path: Path) -> None:
    quantised, plain = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    name = "model.layers.1.mlp.up_proj.weight"

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[140, 130] *= 3  # rows 128 to 143, columns 128 to 135: the last of four blocks
        return tensor

    source = trained(hf, tmp_path, name, change)
    result = convert(to_huggingface(source, tmp_path / "back", config_dir=str(hf), quantization="like-source"), engine="inline")
    back = written_in(tmp_path / "back")
    assert_same(
        {key: back[key] for key in back if not key.startswith(name)}, {k: v for k, v in quantised.items() if not k.startswith(name)}
    )
    scales, was = back[name + "_scale_inv"], quantised[name + "_scale_inv"]
    assert torch.equal(scales != was, torch.tensor([[False, False], [False, True]]))
    block = change(plain[name])[128:, 128:].float()
    assert scales[1, 1] == block.abs().max() / 448
    assert torch.equal(back[name][128:, 128:].view(torch.uint8), (block / scales[1, 1]).to(torch.float8_e4m3fn).view(torch.uint8))
    assert torch.equal(back[name][:128].view(torch.uint8), quantised[name][:128].view(torch.uint8))
    (note,) = [note for note in result.notes if "others than were published" in note.text]
    assert name in note.text
    assert "1 new scales" in note.text


def test_values_that_no_rule_has_new_scales_for_end_the_job_by_name(tmp_path: Path) -> None:
    quantised, _ = twins("one number")
    hf = save(tmp_path / "fp8", quantised, MODELOPT)
    name = "model.layers.1.mlp.up_proj.weight"
    source = trained(hf, tmp_path, name, lambda tensor: tensor * 1.5)
    with pytest.raises(SourceError, match=f"{name} has other values than it was published with.*one for the tensor"):
        convert(to_huggingface(source, tmp_path / "back", config_dir=str(hf), quantization="like-source"), engine="inline")


def test_without_scales_there_is_nothing_to_be_like(tmp_path: Path) -> None:
    hf = save(tmp_path / "bf16", twins()[1], None)
    source = ranks(hf, tmp_path / "ranks")
    with pytest.raises(JobError, match="neither quantised nor are a release's scales carried") as caught:
        convert(to_huggingface(source, tmp_path / "back", config_dir=str(hf), quantization="like-source"), engine="inline")
    assert "options.carry_scales" in str(caught.value)
    quantised = save(tmp_path / "fp8", twins()[0], QUANTISATION)
    there = {"format": "dcp", "path": str(tmp_path / "there")}
    job = {"source": {"format": "huggingface", "path": str(quantised)}, "target": there, "options": {"carry_scales": False}}
    convert(job, engine="inline")
    assert not list((tmp_path / "there").glob("published.*"))


def test_a_part_of_a_release_is_not_what_was_published(tmp_path: Path) -> None:
    hf = save(tmp_path / "fp8", twins()[0], QUANTISATION)
    job = to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "back", quantization="like-source")
    assert make_plan({**job, "options": {"num_layers": 1}})
    with pytest.raises(JobError, match="weights are no longer what was published") as caught:
        make_plan({**ranks_of_a_part(hf, tmp_path), "target": job["target"]})
    assert "model.layers.1" in str(caught.value)


def ranks_of_a_part(hf: Path, root: Path) -> dict[str, Any]:
    """Rank files of the first layer, beside the scales of all."""
    for name, options in (("all", {}), ("part", {"num_layers": 1})):
        target = {"format": "mindspeed-llm", "path": str(root / name)}
        convert({"source": {"format": "huggingface", "path": str(hf)}, "target": target, "options": options}, engine="inline")
    for file in (root / "all").glob("published.*"):
        shutil.copy(file, root / "part")
    return {"source": {"format": "mindspeed-llm", "path": str(root / "part")}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: words.update(version=2), "expected version 1"),
        (lambda words: words.update(modules=[["model", 99]]), "is no module of a kind"),
        (lambda words: words.update(modules=words["modules"][1:]), "does not belong to published.json"),
        (lambda words: words["kinds"][0][1].__setitem__(2, [3, 7]), "does not say how the weights were published"),
        (lambda words: words["kinds"][0][1].__setitem__(1, "F4"), "is no leaf of a known dtype"),
        (lambda words: words["kinds"][0][1].__setitem__(2, [-1, 2]), "has no shape"),
        (lambda words: words.update(words=[]), "words must be objects"),
        (lambda words: words.update(kinds={}), "must be lists"),
    ],
)
def test_words_about_a_release_that_cannot_be_meant_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    hf = save(tmp_path / "fp8", twins()[0], QUANTISATION)
    there = {"format": "dcp", "path": str(tmp_path / "there")}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": there}, engine="inline")
    path = tmp_path / "there" / "published.json"
    words = json.loads(path.read_text())
    change(words)
    path.write_text(json.dumps(words))
    with pytest.raises(SourceError, match=said):
        make_plan(to_huggingface(there, tmp_path / "back", config_dir=str(hf), quantization="like-source"))


def test_a_scale_that_is_lost_on_the_way_is_seen_by_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = save(tmp_path / "fp8", twins()[0], QUANTISATION)

    def moved(*args: Any) -> Any:
        given = give_back(*args)
        sources = [
            tensor._replace(coded=tensor.coded._replace(own=(tensor.coded.own[0]._replace(offset=0),))) if tensor.coded else tensor
            for tensor in given.sources
        ]
        return given._replace(sources=tuple(sources))

    monkeypatch.setattr(planner, "give_back", moved)
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks")}
    with pytest.raises(VerifyError):
        convert(
            {"source": {"format": "huggingface", "path": str(hf)}, "target": target, "options": {"verify": "roundtrip"}}, engine="inline"
        )
