"""What users of mm-convert get wrong: one line that names it, and 2; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from convsvc.cli.mm_convert import main
from convsvc.cli.mm_convert.converters import CONVERTERS
from tests.golden.mindspeed_mm_corpus import write_input

ENV = "MM_CONVERT_QWEN2VLCONVERTER__HF_TO_MM__CFG__PARALLEL_CONFIG__"
TO_MM = ["Qwen2VLConverter", "hf_to_mm", "--cfg.mm_dir=out", "--cfg.hf_config.hf_dir=hf"]
ALL = [*TO_MM, "--cfg.parallel_config.llm_pp_layers=[[4]]"]
YAML = "cfg:\n  mm_dir: out\n  hf_config: {hf_dir: hf}\n  parallel_config:\n    "


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs: a Qwen2-VL of 4 layers with a tower of 3, and configurations with a mistake in each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JSONARGPARSE_DEFAULT_ENV", raising=False)
    write_input({"kind": "hf", "fixture": "qwen2vl", "seed": 1}, tmp_path / "hf")
    write_input({"kind": "hf", "fixture": "glm4_1v", "seed": 1}, tmp_path / "glm")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "typo.yaml").write_text(YAML + "llm_pp_layer: [[4]]\n")
    (tmp_path / "broken.yaml").write_text(YAML + "llm_pp_layers: [[4]\n    tp_size: 1\n")
    (tmp_path / "flat.yaml").write_text("mm_dir: out\n")
    return tmp_path


def said(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("mm-convert: error: ")
    assert not Path("out").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ([*TO_MM, "--cfg.parallel_config.llm_pp_layers=[[1,2]]"], "the pipeline of text_decoder, [1,2], has 3 layers; the model has 4"),
        ([*ALL, "--cfg.parallel_config.vit_pp_layers=[[2]]"], "image_encoder, [2], has 2 layers; the model has 3"),
        ([*TO_MM, "--cfg.parallel_config.llm_pp_layers=[[1,2],[1]]"], "has lists of 2, 1 stages"),
        ([*TO_MM, "--cfg.parallel_config.llm_pp_layers=[[4]"], "llm_pp_layers: is of type list, and not [[4]"),
        ([*ALL, "--cfg.parallel_config.tp_size=3"], "num_key_value_heads has 4 elements, which tp_size (or the module's own) 3 does not"),
        ([*ALL, "--cfg.parallel_config.tp_size=two"], "tp_size: is of type int, and not two"),
        ([*ALL, "--cfg.parallel_config.ep_size=2"], "the model has no experts"),
        ([*ALL, "--cfg.parallel_config.audio_pp_layers=[[4]]"], "this qwen2-vl has no audio_encoder"),
        ([*ALL, "--cfg.hf_config.hf_dir=nowhere"], "nowhere does not exist"),
        ([*ALL, "--cfg.mm_dir=typo.yaml/out"], "typo.yaml, for typo.yaml/out, cannot be made: File exists (choose another target)"),
        (
            [*TO_MM, "--cfg.parallel_config.llm_pp_layers=[[1000000000000]]"],
            "has 1000000000000 layers in a stage; there are at most 1000000",
        ),
        ([*ALL, "--cfg.mm_dir=full"], "full exists and is not empty"),
        ([*ALL, "--cfg.hf_config.hf_dir=glm"], "glm/config.json is the configuration of a glm4v model (it converts qwen2-vl)"),
        (["GlmConverter", *ALL[1:]], "hf/config.json is the configuration of a qwen2-vl model (it converts glm4v)"),
        (["Qwen2VLConvertor", *ALL[1:]], "invalid choice: 'Qwen2VLConvertor'"),
        (["Qwen2VLConverter", "hf2mm", *ALL[2:]], "invalid choice: 'hf2mm' (choose from 'hf_to_mm', 'mm_to_hf', 'resplit')"),
        (TO_MM, "required: --cfg.parallel_config.llm_pp_layers"),
        (
            [*TO_MM[:2], "--config", "typo.yaml"],
            "typo.yaml: cfg.parallel_config.llm_pp_layer: there is no such key; there are llm_pp_layers",
        ),
        ([*TO_MM[:2], "--config", "broken.yaml"], "broken.yaml, line 6: "),
        ([*TO_MM[:2], "--config", "flat.yaml"], "flat.yaml: mm_dir: there is no such key; there is cfg"),
        ([*TO_MM[:2], "--config", "nowhere.yaml"], "File does not exist"),
        (["Mistral3Converter", *ALL[1:]], "Mistral3Converter hf_to_mm is not converted (this model is trained from torch distributed"),
        (["GlmConverter", *ALL[1:], "--cfg.hf_config.hf_dir=glm", "--cfg.parallel_config.tp_size=2"], "how mindspeed-mm cuts glm4v over"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(argv: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wanted in said(argv, capsys)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({ENV + "TP_SIZ": "2"}, f"{ENV}TP_SIZ: there is no such argument; there is {ENV}TP_SIZE"),
        ({ENV.replace("2VL", "2LV") + "TP_SIZE": "2"}, f"there is no such argument; there is {ENV}TP_SIZE"),
        ({ENV + "TP_SIZE": "two"}, "tp_size: is of type int, and not two"),
    ],
)
def test_a_variable_that_is_no_argument_is_not_left_out_in_silence(
    variables: Mapping[str, str], wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted in said(ALL, capsys)


def test_variables_of_other_commands_and_converters_are_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv(ENV.replace("HF_TO_MM", "RESPLIT") + "ANYTHING", "2")
    monkeypatch.setenv("MM_CONVERT_WANCONVERTER__HF_TO_MM__CFG__ANYTHING", "2")
    monkeypatch.setenv(ENV + "TP_SIZE", "2")
    monkeypatch.setenv("MM_CONVERT_QWEN2VLCONVERTER__HF_TO_MM__CFG__COMMON_MODEL_CONFIG", json.dumps({"tie_word_embeddings": False}))
    assert main(ALL) == 0
    assert Path("out/release/mp_rank_01").is_dir()


def test_variables_that_nobody_reads_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(ENV + "TP_SIZE", "2")
    assert main(ALL) == 0
    assert f"advice: {ENV}TP_SIZE: not read, for JSONARGPARSE_DEFAULT_ENV is not true" in capsys.readouterr().err
    assert not Path("out/release/mp_rank_01").exists()


def test_the_page_says_of_every_converter_what_is_done_and_what_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mindspeed-mm.md").read_text()
    rows = {cells[1]: cells[2:5] for line in page.splitlines() if len(cells := [each.strip() for each in line.split("|")]) == 7}
    for name, converter in CONVERTERS.items():
        jobs = [converter.commands.get(sub) for sub in ("hf_to_mm", "mm_to_hf", "resplit")]
        assert rows[name] == ["-" if each is None else "done" if each.job else "refused" for each in jobs], name
        assert all(f"`{sub}`" in page for sub in converter.commands if sub)
