"""Files that are nothing but tensors: whatever they are called, whatever they hold, under their own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, JobError, SourceError

Tensors = dict[str, torch.Tensor]


def drawn(*names: str) -> Tensors:
    return {name: torch.arange(6.0).reshape(2, 3) + 10 * at for at, name in enumerate(names)}


def run(source: Path, target: Path, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None, **options: Any) -> Tensors:
    convert(
        {
            "model_type": "tensors",
            "source": {"format": "tensor-files", "path": str(source), **(before or {})},
            "target": {"format": "tensor-files", "path": str(target), **(after or {})},
            "options": options,
        },
        engine="inline",
    )
    return {name: each for file in sorted(target.glob("*.safetensors")) for name, each in load_file(file).items()}


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_names_are_kept_whatever_a_family_would_call_them(tmp_path: Path) -> None:
    """Of a model that is known, `model.language_model.` would be read as another name of `model.`."""
    (tmp_path / "in").mkdir()
    tensors = drawn("model.language_model.embed_tokens.weight", "model.language_model.layers.0.w", "x.lora_A.weight", "w.weight_scale_inv")
    save_file(tensors, tmp_path / "in" / "any.safetensors")
    assert same(run(tmp_path / "in", tmp_path / "out"), tensors)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_one_file_is_read(tmp_path: Path, kind: str) -> None:
    tensors = drawn("a", "b.c")
    file = tmp_path / f"model.{kind}"
    save_file(tensors, file) if kind == "safetensors" else torch.save(tensors, file)
    assert same(run(file, tmp_path / "out"), tensors)


def test_an_index_says_which_files_are_meant(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(drawn("a"), tmp_path / "in" / "one.safetensors")
    save_file(drawn("stray"), tmp_path / "in" / "stray.safetensors")
    (tmp_path / "in" / "any.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert same(run(tmp_path / "in", tmp_path / "out"), drawn("a"))


def test_files_follow_the_layers_that_are_in_the_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tensors = drawn("blocks.1.w", "blocks.0.w", "blocks.1.v", "norm", "blocks.0.v", "blocks.10.w")
    save_file(tensors, tmp_path / "in" / "a.safetensors")
    assert same(run(tmp_path / "in", tmp_path / "out"), tensors)
    files = [set(load_file(file)) for file in sorted((tmp_path / "out").glob("*.safetensors"))]
    layers = [{name.split(".")[1] for name in names if name != "norm"} for names in files]
    assert sorted(map(sorted, layers)) == [["0"], ["1"], ["10"]]


def test_what_lies_beside_is_copied_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(drawn("a"), tmp_path / "in" / "a.safetensors")
    (tmp_path / "in" / "config.json").write_text('{"model_type": "of-nobody",  "x": 1}')
    (tmp_path / "in" / "tokenizer.json").write_text("{}")
    run(tmp_path / "in", tmp_path / "out", after={"assets_dir": str(tmp_path / "in")})
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "in" / name).read_text()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "has no safetensors file"),
        (lambda root: save_file({}, root / "a.safetensors"), "holds no tensors"),
        (lambda root: [save_file(drawn("a"), root / f"{each}.safetensors") for each in "ab"], "a is in two files"),
        (lambda root: [(root / f"{each}.safetensors.index.json").write_text("{}") for each in "ab"], "has 2 indexes"),
        (lambda root: (root / "a.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'), "must map tensors"),
        (lambda root: (root / "a.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'), "lacks 1 of the files"),
    ],
    ids=["no file", "no tensor", "twice", "two indexes", "outside", "missing"],
)
def test_what_is_no_set_of_tensors_is_refused_in_words(tmp_path: Path, make: Any, words: str) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    with pytest.raises(SourceError, match=words):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_has_a_format_of_its_own(tmp_path: Path) -> None:
    from tests.tiny_checkpoints import write_llama

    write_llama(tmp_path / "llama")
    job = {
        "source": {"format": "huggingface", "path": str(tmp_path / "llama")},
        "target": {"format": "tensor-files", "path": str(tmp_path / "out")},
    }
    with pytest.raises(JobError, match="is for tensors of no known model") as error:
        convert(job, engine="inline")
    assert 'use format "huggingface"' in (error.value.do or "")


def test_names_are_changed_on_the_way_and_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tensors = drawn("thinker.a", "talker.b")
    save_file(tensors, tmp_path / "in" / "a.safetensors")
    names = {"names": {"thinker.": "", "talker.": "talker."}}
    assert set(run(tmp_path / "in", tmp_path / "out", after=names)) == {"a", "talker.b"}
    assert same(run(tmp_path / "out", tmp_path / "back", before=names), tensors)
    with pytest.raises(ConvsvcError, match="names would not be read"):
        run(tmp_path / "in", tmp_path / "bad", after={"names": {"thinker.": ""}})


def test_a_cast_is_of_all_floats(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file(drawn("a"), tmp_path / "in" / "a.safetensors")
    assert run(tmp_path / "in", tmp_path / "out", dtype="bf16")["a"].dtype == torch.bfloat16
