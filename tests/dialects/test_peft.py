"""The format peft: LoRA adapters are a source, which is merged into its base, and a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.cli.main import main
from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, JobError, PathRefused, SourceError
from convsvc.plan.inspect import inspect_checkpoint
from convsvc.plan.planner import make_plan
from convsvc.roots import Roots
from tests.plan.test_adapters import LAYOUTS, LINEAR, R, Tensors, all_layers, back, base_model, same, tuned, weights, write_peft


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return base_model(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter for every linear layer, whose configuration names its base as training does."""
    write_peft(tmp_path / "adapter", base, dict.fromkeys(all_layers(*LINEAR), R), base_model_name_or_path=str(base))
    return tmp_path / "adapter"


def merged_by_hand(base: Path, adapter: Path) -> Tensors:
    sides = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.{}.lora_{}.weight".format
    want = weights(base)
    for module in all_layers(*LINEAR):
        want[f"{module}.weight"] = want[f"{module}.weight"] + 2 * sides[name(module, "B")] @ sides[name(module, "A")]
    return want


def job(adapter: Path, target: Path, base: Path | None = None, **to: Any) -> dict[str, Any]:
    source = {"format": "peft", "path": str(adapter), **({"base_path": str(base)} if base else {})}
    return {"source": source, "target": {"format": "mindspeed-llm" if to else "huggingface", "path": str(target), **to}}


def name_base(adapter: Path, named: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))


@pytest.mark.parametrize("stated", [True, False], ids=["the job names the base", "the adapter names it"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_is_merged_into_its_base_on_the_way_to_any_layout(
    layout: str, stated: bool, base: Path, adapter: Path, tmp_path: Path
) -> None:
    if stated:
        name_base(adapter, "somebody/else")
    made = job(adapter, tmp_path / "out", base if stated else None, **LAYOUTS[layout])
    convert(made, engine="inline")
    assert json.loads((tmp_path / "out" / "conversion-report.json").read_text())["job"]["source"]["base_path"] == str(base)
    if LAYOUTS[layout]:
        source = {"format": "mindspeed-llm", "path": str(tmp_path / "out")}
        convert({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    have = tmp_path / ("back" if LAYOUTS[layout] else "out")
    assert same(weights(have), merged_by_hand(base, adapter))


def test_the_bases_configuration_and_tokenizer_go_with_the_merged_weights(base: Path, adapter: Path, tmp_path: Path) -> None:
    (base / "tokenizer.json").write_text("{}")
    convert(job(adapter, tmp_path / "out"), engine="inline")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 2


UNKNOWN: dict[str, tuple[Any, str]] = {
    "none": (None, "names none"),
    "a name of the hub": ("org/base", "names 'org/base', which is no absolute path"),
    "a directory that is not there": ("/nowhere/base", "names '/nowhere/base'"),
    "no text": (7, "names 7"),
    "no path at all": ("/a\0b", "which is no absolute path"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_base_that_is_not_known_is_asked_for(name: str, adapter: Path, tmp_path: Path) -> None:
    named, words = UNKNOWN[name]
    name_base(adapter, named)
    with pytest.raises(SourceError) as caught:
        make_plan(job(adapter, tmp_path / "out"))
    assert words in str(caught.value)
    assert "source.base_path" in str(caught.value.do)


@pytest.mark.parametrize("stated", [True, False], ids=["the job names the base", "the adapter names it"])
def test_a_base_outside_the_roots_is_refused(stated: bool, base: Path, adapter: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    adapter = adapter.rename(allowed / "adapter")
    with pytest.raises(PathRefused):
        make_plan(job(adapter, allowed / "out", base if stated else None, tensor_parallel_size=2), Roots((str(allowed),)))
    make_plan(job(adapter, allowed / "out", base if stated else None, tensor_parallel_size=2), Roots((str(allowed), str(base))))


def test_what_is_no_adapter_is_refused_by_its_field(base: Path, tmp_path: Path) -> None:
    for path, words in ((base, "has no adapter_config.json"), (tmp_path / "nothing", "is not a directory")):
        with pytest.raises(SourceError, match=f"source.path: .* {words}"):
            make_plan(job(path, tmp_path / "out", base))


def test_a_base_that_is_none_is_said(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConvsvcError, match=r"empty/config\.json does not exist"):
        make_plan(job(adapter, tmp_path / "out", tmp_path / "empty"))


def test_as_a_target_it_is_what_adapter_only_writes(tmp_path: Path) -> None:
    ranks = tuned(tmp_path, lora_r=R, lora_alpha=8)
    long = back(ranks, tmp_path / "a", {})
    convert({**long, "target": {"format": "peft", "path": str(tmp_path / "a")}}, engine="inline")
    convert(back(ranks, tmp_path / "b", {}, adapter_only=True), engine="inline")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_was_exported_is_a_source_again(tmp_path: Path) -> None:
    """Rank files merged at once, and exported and merged then, are the same model."""
    ranks = tuned(tmp_path, lora_r=R, lora_alpha=8)
    convert({**back(ranks, tmp_path / "a", {}), "target": {"format": "peft", "path": str(tmp_path / "a")}}, engine="inline")
    convert(job(tmp_path / "a", tmp_path / "one", tmp_path / "base"), engine="inline")
    convert(back(ranks, tmp_path / "other", {}), engine="inline")
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert one.keys() == other.keys()
    # A fused layer's product is one sum over its A; the order of adding is the same.
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_adapters_are_not_written_as_what_they_are_already(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="are one already"):
        make_plan({**job(adapter, tmp_path / "out"), "target": {"format": "peft", "path": str(tmp_path / "out")}})


def test_a_source_without_adapters_has_none_to_write(base: Path, tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(base)}
    with pytest.raises(JobError, match=r"target\.format is peft, but no adapters are read"):
        make_plan({"source": source, "target": {"format": "peft", "path": str(tmp_path / "out")}})


def test_inspect_describes_adapters_with_the_base_that_they_name(base: Path, adapter: Path) -> None:
    about = inspect_checkpoint(str(adapter))
    assert (about["format"], about["path"], about["base_path"]) == ("peft", str(adapter), str(base))
    assert about["lora"] == {"adapters": 14, "r": R, "alpha": 8}
    assert (about["complete"], about["model_type"], about["layers"]) == (True, "llama2", 2)


def test_inspect_describes_adapters_without_their_base(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name_base(adapter, "org/base")
    about = inspect_checkpoint(str(adapter))
    assert (about["format"], about["path"], about["files"], about["tensors"]) == ("peft", str(adapter), 1, 28)
    assert about["lora"] == {"adapters": 14, "r": R, "alpha": 8}
    assert (about["complete"], "'org/base'" in about["problem"]) == (False, True)
    assert main(["inspect", str(adapter)]) == 0
    assert "adapters  14" in capsys.readouterr().out


def test_an_adapter_given_as_a_model_is_told_what_to_say(adapter: Path, tmp_path: Path) -> None:
    source = {"format": "huggingface", "path": str(adapter)}
    with pytest.raises(SourceError, match="is a PEFT adapter") as caught:
        make_plan({"source": source, "target": {"format": "mindspeed-llm", "path": str(tmp_path / "out")}})
    assert 'source.format "peft", source.base_path' in str(caught.value.do)
