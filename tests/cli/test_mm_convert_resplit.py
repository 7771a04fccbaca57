"""Rank files cut anew by the command come back to the same directory, whatever of it is unusual."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convsvc.cli.mm_convert import main
from tests.golden.mindspeed_mm_corpus import write_input

# Its sizes are no published model's.
pytestmark = pytest.mark.not_for_transformers


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in folder.glob("*.safetensors") for name, each in load_file(file).items()}


@pytest.mark.parametrize(("there", "back"), [("[[4]]", "[4]"), ("[[1,3]]", "[1,3]")])
@pytest.mark.parametrize(("again", "tp"), [("[4]", "2"), ("[2,2]", "1"), ("[[1,1],[2,0]]", "2")])
def test_an_output_layer_of_its_own_in_a_tied_model_stays_one(there: str, back: str, again: str, tp: str, tmp_path: Path) -> None:
    hf = write_input({"kind": "hf", "fixture": "qwen2vl_tie_with_head", "seed": 5}, tmp_path / "hf")
    ranks, anew, out = (str(tmp_path / name) for name in ("ranks", "anew", "out"))
    converter, config = "Qwen2VLConverter", f"--cfg.hf_config.hf_dir={hf}"
    assert main([converter, "hf_to_mm", config, f"--cfg.mm_dir={ranks}", f"--cfg.parallel_config.llm_pp_layers={there}"]) == 0
    source = [f"--cfg.source_dir={ranks}", f"--cfg.source_parallel_config.llm_pp_layers={back}"]
    target = [
        f"--cfg.target_dir={anew}",
        f"--cfg.target_parallel_config.llm_pp_layers={again}",
        f"--cfg.target_parallel_config.tp_size={tp}",
    ]
    assert main([converter, "resplit", config, *source, *target]) == 0
    cut = [f"--cfg.parallel_config.llm_pp_layers={again}", f"--cfg.parallel_config.tp_size={tp}"]
    assert main([converter, "mm_to_hf", config, f"--cfg.mm_dir={anew}", f"--cfg.save_hf_dir={out}", *cut]) == 0
    assert weights(Path(out)).keys() == weights(hf).keys()
    assert all(torch.equal(each, weights(Path(out))[name]) for name, each in weights(hf).items())


@pytest.mark.parametrize(("tp", "tower"), [(1, 2), (2, 4), (4, 1)])
def test_an_embedding_that_was_resized_comes_back_with_its_rows_however_the_tower_is_cut(tp: int, tower: int, tmp_path: Path) -> None:
    hf = write_input({"kind": "hf", "fixture": "qwen2vl", "seed": 5}, tmp_path / "hf")
    config, cut = f"--cfg.hf_config.hf_dir={hf}", [f"--cfg.parallel_config.tp_size={tp}", f"--cfg.parallel_config.vit_tp_size={tower}"]
    there = [f"--cfg.mm_dir={tmp_path / 'ranks'}", "--cfg.parallel_config.llm_pp_layers=[[4]]"]
    assert main(["Qwen2VLConverter", "hf_to_mm", config, *there, *cut, "--cfg.common_model_config.resize_vocab_size=104"]) == 0
    back = [there[0], f"--cfg.save_hf_dir={tmp_path / 'out'}", "--cfg.parallel_config.llm_pp_layers=[4]"]
    assert main(["Qwen2VLConverter", "mm_to_hf", config, *back, *cut]) == 0
    head, before = weights(tmp_path / "out")["lm_head.weight"], weights(hf)["lm_head.weight"]
    assert torch.equal(head[:96], before)
    assert head.shape == (104, 32)
    assert not head[96:].any()


@pytest.mark.parametrize("tower", ["[3]", "[[2,0],[1,0]]", "[[3],[0]]", "[[2],[1]]", "[0,3]", "[2,0,1]", None])
@pytest.mark.parametrize("fixture", ["qwen2vl", "qwen2_5vl"])
def test_without_a_configuration_a_towers_layers_are_counted_once(fixture: str, tower: str | None, tmp_path: Path) -> None:
    """A list that is shorter than the pipeline begins again: the tower lies there more than once."""
    hf = write_input({"kind": "hf", "fixture": fixture, "seed": 5}, tmp_path / "hf")
    converter = "Qwen2VLConverter" if fixture == "qwen2vl" else "Qwen2_5_VLConverter"
    ranks, anew, out = (str(tmp_path / name) for name in ("ranks", "anew", "out"))
    config = f"--cfg.hf_config.hf_dir={hf}"
    stages = "[[1,1,0],[0,1,1]]"

    def cut(name: str) -> list[str]:
        said = [f"--cfg.{name}parallel_config.llm_pp_layers={stages}"]
        return said if tower is None else [*said, f"--cfg.{name}parallel_config.vit_pp_layers={tower}"]

    there = [converter, "hf_to_mm", config, f"--cfg.mm_dir={ranks}", *cut("")]
    if tower == "[3]":
        there[-1] = there[-1].replace("[3]", "[[3]]")
    assert main(there) == 0
    source = cut("source_") if fixture == "qwen2vl" else cut("source_")[:1]
    target = ["--cfg.target_parallel_config.llm_pp_layers=[4]", "--cfg.target_parallel_config.tp_size=2"]
    assert main([converter, "resplit", f"--cfg.source_dir={ranks}", f"--cfg.target_dir={anew}", *source, *target]) == 0
    back = [
        f"--cfg.mm_dir={anew}",
        f"--cfg.save_hf_dir={out}",
        "--cfg.parallel_config.llm_pp_layers=[4]",
        "--cfg.parallel_config.tp_size=2",
    ]
    assert main([converter, "mm_to_hf", config, *back]) == 0
    assert weights(Path(out)).keys() == weights(hf).keys()
    assert all(torch.equal(each, weights(Path(out))[name]) for name, each in weights(hf).items())


@pytest.mark.parametrize(("stages", "is_said"), [("[[2,2]]", True), ("[[4]]", False)])
def test_without_a_configuration_a_copy_of_the_embedding_is_not_told_from_an_output_layer(
    stages: str, is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = write_input({"kind": "hf", "fixture": "qwen2vl_tie", "seed": 5}, tmp_path / "hf")
    ranks = f"--cfg.mm_dir={tmp_path / 'ranks'}"
    assert (
        main(["Qwen2VLConverter", "hf_to_mm", f"--cfg.hf_config.hf_dir={hf}", ranks, f"--cfg.parallel_config.llm_pp_layers={stages}"]) == 0
    )
    source = [
        f"--cfg.source_dir={tmp_path / 'ranks'}",
        f"--cfg.source_parallel_config.llm_pp_layers={stages.replace('[[', '[').replace(']]', ']')}",
    ]
    target = [f"--cfg.target_dir={tmp_path / 'anew'}", "--cfg.target_parallel_config.llm_pp_layers=[1,3]"]
    assert main(["Qwen2VLConverter", "resplit", *source, *target]) == 0
    assert ("no source.config_dir says whether the output layer is the embedding" in capsys.readouterr().err) == is_said
