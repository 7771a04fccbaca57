"""mm-convert's diffusion models: the commands that have a version, an adapter, or one file for a result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convsvc.cli.mm_convert import main
from tests.golden.diffusion_inputs import published_tensors, read_tops, write_published
from tests.golden.mindspeed_mm_corpus import digest, expected_ranks, manifest


def said(source: Path, target: Path, *more: str) -> list[str]:
    return [f"--cfg.source_path={source}", f"--cfg.target_path={target}", *more]


def test_adapters_alone_become_rank_files(tmp_path: Path) -> None:
    source = write_published("wan_lora", 1, tmp_path / "in")
    assert main(["WanConverter", "lora_hf_to_mm", *said(source, tmp_path / "out")]) == 0
    assert read_tops(tmp_path / "out")[0] == expected_ranks(manifest("wan-lora-h2m"))


@pytest.mark.parametrize(
    ("name", "there", "back"), [("vace_civitai", "hf_to_mm", "mm_to_hf"), ("vace_diffusers", "hf_diffusers_to_mm", "mm_to_hf_diffusers")]
)
def test_one_torch_file_is_left_where_the_source_tool_leaves_one(name: str, there: str, back: str, tmp_path: Path) -> None:
    source = write_published(name, 1, tmp_path / "in")
    assert main(["VACEConverter", there, *said(source, tmp_path / "ranks")]) == 0
    assert main(["VACEConverter", back, *said(tmp_path / "ranks", tmp_path / "out.pt")]) == 0
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert {each: digest(tensor) for each, tensor in found.items()} == published_tensors(name, 1)
    beside = [f"out.pt.conversion-report.{kind}" for kind in ("html", "json", "md")]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.pt", *beside]


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.pt").write_text("mine")
    assert main(["VACEConverter", "mm_to_hf", *said(tmp_path / "ranks", tmp_path / "out.pt")]) != 0
    assert "out.pt exists" in capsys.readouterr().err
    assert (tmp_path / "out.pt").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["HunyuanVideoConverter", "--version", "i2v", "source_to_mm"], "version i2v is not cut over ranks"),
    ],
)
def test_what_a_version_has_no_way_to_is_refused(
    command: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *said(tmp_path, tmp_path / "out", "--cfg.target_parallel_config.tp_size=2")]) == 2
    assert words in capsys.readouterr().err


def test_tables_of_positions_are_left_out_when_asked(tmp_path: Path) -> None:
    source = write_published("cogvideo_sat", 1, tmp_path / "in") / "mp_rank_00_model_states.pt"
    cut = "--cfg.target_parallel_config.tp_size=2"
    assert main(["CogVideoConverter", "--remove_pos_emb", "true", "source_to_mm", *said(source, tmp_path / "out", cut)]) == 0
    assert read_tops(tmp_path / "out")[0] == expected_ranks(manifest("cog-src-tp2"))
