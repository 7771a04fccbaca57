"""Adapters in MindSpeed-MM's rank files and the base that they change: merged wherever both are cut; diffusion models in DCP."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from convsvc.cli.mm_convert import main
from convsvc.conversion import convert
from convsvc.errors import ConvsvcError
from tests.golden.diffusion_inputs import write_published
from tests.golden.mindspeed_mm_corpus import draw, fixture, write_input

pytestmark = pytest.mark.not_for_transformers
SORA, PUBLISHED = "mindspeed-mm-sora", "diffusers"


def drawn(name: str, seed: int) -> dict[str, torch.Tensor]:
    return {each: draw(seed, each, *said) for each, said in fixture(name)["tensors"].items()}


def merged(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    return (weight.double() + scale * (b.double() @ a.double())).to(weight.dtype)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


def near(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], changed: set[str]) -> None:
    """The same names; what has an adapter within a rounding of what it should be, the rest bit for bit."""
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        if name in changed:
            torch.testing.assert_close(found[name], each, rtol=1e-2, atol=1e-2)
        else:
            assert torch.equal(found[name], each), name


def wan(folder: Path, base: list[Any], adapters: list[int]) -> tuple[Path, Path]:
    """Rank files of a base and of its adapters, each cut in its own way."""
    for name, cut in (("wan_t2v", base), ("wan_lora", adapters)):
        source = write_published(name, 3, folder / f"{name}.in")
        path = source / f"{fixture(name)['file_prefix']}.safetensors" if fixture(name).get("shards", 1) == 1 else source
        convert({"source": {"format": PUBLISHED, "path": str(path)}, "target": ranks(folder / name, pp_layers=cut)}, engine="inline")
    return folder / "wan_t2v", folder / "wan_lora"


def ranks(path: Path, **more: Any) -> dict[str, Any]:
    return {"format": SORA, "path": str(path), **more}


MODULES = {"self_attn": "attn1", "cross_attn": "attn2"}
PARTS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}


def diffusers_name(module: str) -> str:
    """What diffusers calls a module of Wan's authors."""
    layer, rest = re.fullmatch(r"(blocks\.\d+)\.(.*)", module).groups()  # type: ignore[union-attr]  # adapters are in blocks alone
    if rest.startswith("ffn"):
        return f"{layer}.ffn.net.{'0.proj' if rest == 'ffn.0' else '2'}"
    kind, part = rest.split(".")
    return f"{layer}.{MODULES[kind]}.{PARTS[part]}"


@pytest.mark.parametrize(("base", "adapters"), [([2, 2], [1, 3]), ([[1, 0], [2, 1]], [4])])
def test_wans_adapters_are_merged_by_the_command_wherever_layers_of_both_lie(base: list[Any], adapters: list[int], tmp_path: Path) -> None:
    """The source tool's command needs an accelerator, and then merges the base with itself (`lora_state_dict` is made of the base)."""
    place, lora = wan(tmp_path, base, adapters)
    asked = ["WanConverter", "merge_lora_to_base", f"--cfg.source_path={place}", f"--cfg.lora_path={lora}", "--lora_rank", "2"]
    out = tmp_path / "merged"
    assert main([*asked, f"--cfg.target_path={out}", "--cfg.target_parallel_config.pp_layers", "[3,1]", "--lora_alpha", "8"]) == 0
    convert({"source": ranks(out), "target": {"format": PUBLISHED, "path": str(tmp_path / "out"), "form": "hf_diffusers"}}, engine="inline")
    wanted, sides = drawn("wan_t2v", 3), drawn("wan_lora", 3)
    changed = set()
    for name in (each for each in sides if ".lora_A" in each):
        weight = diffusers_name(name.partition(".lora_A")[0]) + ".weight"
        wanted[weight] = merged(wanted[weight], sides[name], sides[name.replace("lora_A", "lora_B")], 8 / 2)
        changed.add(weight)
    assert changed
    near(loaded(tmp_path / "out"), wanted, changed)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lora_rank", "3"], "adapters have another rank"),
        (["--lora_rank", "0"], "--lora_rank is 0; it must be 1 or more"),
    ],
)
def test_a_rank_that_the_adapters_have_not_is_refused(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, lora = wan(tmp_path, [4], [4])
    asked = ["WanConverter", "merge_lora_to_base", f"--cfg.source_path={place}", f"--cfg.lora_path={lora}"]
    assert main([*asked, f"--cfg.target_path={tmp_path / 'merged'}", *more]) != 0
    assert words in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_rank_files_that_are_no_adapters_are_not_taken_for_some(tmp_path: Path) -> None:
    place, _ = wan(tmp_path, [4], [4])
    source = ranks(place, lora={"path": str(place), "r": 2, "alpha": 2})
    with pytest.raises(ConvsvcError, match="holds no adapters alone that are known"):
        convert({"source": source, "target": ranks(tmp_path / "merged")}, engine="inline")


@pytest.mark.parametrize("name", ["qwen2_5vl_lora", "qwen2_5vl_lora_noprefix"])
@pytest.mark.parametrize("cut", [{"tp_size": 1}, {"tp_size": 2, "pp_layers": [1, 3], "vit_pp_layers": [3, 0]}])
def test_adapters_of_both_parts_are_merged_into_a_published_model(name: str, cut: dict[str, Any], tmp_path: Path) -> None:
    write_input({"kind": "hf", "fixture": "qwen2_5vl", "seed": 1}, tmp_path / "base")
    write_input({"kind": "hf", "fixture": name, "seed": 2}, tmp_path / "lora")
    convert({"source": {"format": PUBLISHED, "path": str(tmp_path / "lora")}, "target": ranks(tmp_path / "ranks", **cut)}, engine="inline")
    source = {"format": "huggingface", "path": str(tmp_path / "base"), "lora": {"path": str(tmp_path / "ranks"), "alpha": 2.0}}
    convert({"source": source, "target": {"format": "huggingface", "path": str(tmp_path / "out")}}, engine="inline")
    wanted, sides = drawn("qwen2_5vl", 1), drawn(name, 2)
    changed = set()
    for side in (each for each in sides if ".lora_A" in each):
        weight = side.removeprefix("base_model.model.").partition(".lora_A")[0] + ".weight"
        a, b = sides[side], sides[side.replace("lora_A", "lora_B")]
        wanted[weight] = merged(wanted[weight], a, b, 2.0 / a.shape[0])
        changed.add(weight)
    assert {each.split(".")[0] for each in changed} == {"model", "visual"}
    near(loaded(tmp_path / "out"), wanted, changed)


@pytest.mark.parametrize(("name", "count"), [("wan_t2v", 4), ("wan_lora", 4)])
def test_rank_files_become_a_torch_distributed_checkpoint_under_their_own_names(name: str, count: int, tmp_path: Path) -> None:
    whole, cut = wan(tmp_path / "whole", [count], [count]), wan(tmp_path / "cut", [1, count - 1], [count - 1, 1])
    at = int(name == "wan_lora")
    out = tmp_path / "dcp"
    assert main(["WanConverter", "mm_to_dcp", f"--cfg.source_path={cut[at]}", f"--cfg.target_path={out}"]) == 0
    assert (out / "latest_checkpointed_iteration.txt").read_text() == "release"
    state: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        reader = FileSystemReader(out / "release")
        _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    wanted = torch.load(whole[at] / "release" / "mp_rank_00" / "model_optim_rng.pt", weights_only=True)["model"]
    assert state.keys() == {"model"}
    assert state["model"].keys() == wanted.keys()
    assert all(torch.equal(state["model"][each], wanted[each]) for each in wanted)


def published(tmp_path: Path) -> dict[str, Any]:
    return {"format": PUBLISHED, "path": str(write_published("wan_t2v", 3, tmp_path / "in"))}


@pytest.mark.parametrize("target", ["huggingface", "mindspeed-llm", "megatron", "mindformers", "mindspeed-mm"])
def test_a_format_of_language_models_says_that_it_holds_no_diffusion_model(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError, match=f'Wan is a diffusion model, and target.format "{target}" holds none') as refused:
        convert({"source": published(tmp_path), "target": {"format": target, "path": str(tmp_path / "out")}}, engine="inline")
    assert refused.value.do == "convert it to one of dcp, diffusers, mindspeed-mm-sora"


@pytest.mark.parametrize(
    ("form", "words"),
    [(None, "target.form must say whose names it gets"), ("other", "wan has the forms hf_diffusers, original")],
)
def test_whose_names_a_diffusion_model_gets_in_dcp_is_said(form: str | None, words: str, tmp_path: Path) -> None:
    target = {"format": "dcp", "path": str(tmp_path / "out"), **({"form": form} if form else {})}
    with pytest.raises(ConvsvcError, match=words):
        convert({"source": published(tmp_path), "target": target}, engine="inline")


def test_a_language_model_has_no_forms(tmp_path: Path) -> None:
    write_input({"kind": "hf", "fixture": "qwen2vl", "seed": 1}, tmp_path / "hf")
    source = {"format": "huggingface", "path": str(tmp_path / "hf")}
    for target, words in (
        ({"format": "dcp", "form": "original"}, "only diffusion models have several"),
        ({"format": PUBLISHED}, "is none"),
    ):
        with pytest.raises(ConvsvcError, match=words):
            convert({"source": source, "target": {**target, "path": str(tmp_path / "out")}}, engine="inline")
