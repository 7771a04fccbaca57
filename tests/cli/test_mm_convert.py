"""The drop-in for MindSpeed-MM's mm-convert: its arguments in all the ways it takes them become the right job, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from convsvc.cli.mm_convert import job_of, main
from convsvc.cli.mm_convert.converters import CONVERTERS
from convsvc.cli.mm_convert.parsing import examples, parse
from convsvc.spec import parse_job

GENERIC = ["GenericDCPConverter", "hf_to_dcp", "--hf_dir", "/hf", "--dcp_dir", "/dcp"]
# MindSpeed-MM's guide, checkpoint conversion: Qwen2-VL-7B over four stages.
GUIDE = [
    *("Qwen2VLConverter", "hf_to_mm", "--cfg.mm_dir", "ckpt/mm_path/Qwen2-VL-7B-Instruct"),
    *("--cfg.hf_config.hf_dir", "ckpt/hf_path/Qwen2-VL-7B-Instruct", "--cfg.parallel_config.llm_pp_layers", "[[1,10,10,7]]"),
    *("--cfg.parallel_config.vit_pp_layers", "[[32,0,0,0]]", "--cfg.parallel_config.tp_size", "1"),
]
CUT = {"llm_pp_layers": [[1, 10, 10, 7]], "vit_pp_layers": [[32, 0, 0, 0]], "tp_size": 1}
PLACES: dict[str, Any] = {"mm_dir": "ckpt/mm_path/Qwen2-VL-7B-Instruct", "hf_config": {"hf_dir": "ckpt/hf_path/Qwen2-VL-7B-Instruct"}}


def said(argv: list[str]) -> dict[str, Any]:
    """What a command line says, less what has its default value."""
    return parse(argv).config.model_dump(exclude_defaults=True)


GUIDE_SAYS = {**PLACES, "parallel_config": {name: value for name, value in CUT.items() if name != "tp_size"}}


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1, err
    assert err.startswith("mm-convert: error: ")
    return err.strip().removeprefix("mm-convert: error: ")


def printed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


def test_help_has_three_levels_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(name in printed(["-h"], capsys) for name in CONVERTERS)
    assert "resplit" in printed(["Qwen2VLConverter", "-h"], capsys)
    for argv in (["-h"], ["Qwen2VLConverter", "--help"], ["Qwen2VLConverter", "hf_to_mm", "-h"], [*GENERIC[:2], "-h"]):
        assert "Example: mm-convert" in printed(argv, capsys)
    leaf = printed(["Qwen2VLConverter", "hf_to_mm", "--help"], capsys)
    assert "--cfg.parallel_config.llm_pp_layers" in leaf
    assert "<class" not in leaf


@pytest.mark.parametrize("name", CONVERTERS)
def test_each_command_of_each_converter_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for sub in CONVERTERS[name].commands:
        assert CONVERTERS[name].words.split()[0] in printed([name, *([sub] if sub else []), "-h"], capsys)


def test_the_guides_command_is_understood() -> None:
    assert said(GUIDE) == GUIDE_SAYS
    joined = [f"{flag}={value}" for flag, value in zip(GUIDE[2::2], GUIDE[3::2], strict=True)]
    assert said([*GUIDE[:2], *joined]) == GUIDE_SAYS


def test_a_configuration_that_was_printed_and_edited_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed([*GUIDE[:2], "--print_config=comments"], capsys)
    assert "# tensor parallel size" in text
    for name, value in {"mm_dir": PLACES["mm_dir"], "hf_dir": PLACES["hf_config"]["hf_dir"], **CUT}.items():
        at = next(line for line in text.splitlines() if line.strip().startswith((f"{name}:", f"{name}: ")))
        text = text.replace(at, f"{at.split(':')[0]}: {json.dumps(value)}", 1)
    (tmp_path / "convert.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert said([*GUIDE[:2], "--config", "convert.yaml"]) == GUIDE_SAYS


def test_a_configuration_is_printed_with_what_was_said_and_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml.safe_load(printed([*GUIDE, "--print_config=skip_default"], capsys)) == {"cfg": GUIDE_SAYS}
    assert yaml.safe_load(printed([*GUIDE, "--print_config"], capsys))["cfg"]["parallel_config"]["tp_size"] == 1


def config(folder: Path, name: str, value: Any) -> str:
    (folder / name).write_text(yaml.safe_dump(value))
    return str(folder / name)


def test_configurations_are_merged_key_by_key_and_what_comes_later_wins(tmp_path: Path) -> None:
    first = config(tmp_path, "a.yaml", {"cfg": {**PLACES, "parallel_config": CUT}})
    second = config(tmp_path, "b.yaml", {"cfg": {"parallel_config": {"tp_size": 4}}})
    tp = "--cfg.parallel_config.tp_size"
    sizes = [
        parse([*GUIDE[:2], *argv]).config.parallel_config.tp_size
        for argv in (
            ["--config", first],
            ["--config", first, "--config", second],
            ["--config", first, tp, "2"],
            [tp, "2", "--config", first],
        )
    ]
    assert sizes == [1, 4, 2, 1]


def test_all_of_cfg_may_be_a_file_or_json(tmp_path: Path) -> None:
    value = {**PLACES, "parallel_config": CUT}
    assert said([*GUIDE[:2], "--cfg", config(tmp_path, "c.yaml", value)]) == GUIDE_SAYS
    assert said([*GUIDE[:2], "--cfg", json.dumps(value)]) == GUIDE_SAYS
    part = config(tmp_path, "p.yaml", CUT)
    assert said([*GUIDE[:6], "--cfg.parallel_config", part]) == GUIDE_SAYS


def test_one_file_may_speak_of_the_converter_too(tmp_path: Path) -> None:
    path = config(tmp_path, "all.yaml", {"hf_dir": "/hf", "dcp_dir": "/dcp"})
    assert said([*GENERIC[:2], "--config", path]) == {"hf_dir": "/hf", "dcp_dir": "/dcp"}


ENVIRONMENT = {
    "MM_DIR": PLACES["mm_dir"],
    "HF_CONFIG__HF_DIR": PLACES["hf_config"]["hf_dir"],
    "PARALLEL_CONFIG__LLM_PP_LAYERS": "[[1,10,10,7]]",
    "PARALLEL_CONFIG__VIT_PP_LAYERS": "[[32,0,0,0]]",
    "PARALLEL_CONFIG__TP_SIZE": "1",
}


def test_environment_variables_are_arguments_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(f"MM_CONVERT_QWEN2VLCONVERTER__HF_TO_MM__CFG__{name}", str(value))
    assert "required: --cfg.mm_dir" in refusal(GUIDE[:2], capsys)
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    assert said(GUIDE[:2]) == GUIDE_SAYS
    assert "MM_CONVERT_QWEN2VLCONVERTER__HF_TO_MM__CFG__PARALLEL_CONFIG__TP_SIZE" in printed([*GUIDE[:2], "-h"], capsys)


def test_a_converters_own_arguments_stand_before_the_command() -> None:
    asked = parse(["OpenSoraPlanConverter", "--version", "v1.3", "hf_to_mm", "--cfg.source_path", "a", "--cfg.target_path", "b"])
    assert asked.arguments == {"version": "v1.3"}


WRONG = {
    "nothing": ([], "converter"),
    "converter": (["NopeConverter", "hf_to_mm"], "invalid choice: 'NopeConverter'"),
    "command": (["Qwen2VLConverter", "nope"], "invalid choice: 'nope'"),
    "argument": ([*GUIDE, "--cfg.nope", "1"], "unrecognized arguments: --cfg.nope 1"),
    "missing": (GUIDE[:4], "required: --cfg.hf_config.hf_dir, --cfg.parallel_config.llm_pp_layers"),
    "no number": ([*GUIDE[:-1], "two"], "--cfg.parallel_config.tp_size: is of type int, and not two"),
    "too small": ([*GUIDE[:-1], "0"], "--cfg.parallel_config.tp_size: 0 is less than 1"),
    "negative": ([*GUIDE, "--cfg.parallel_config.vit_tp_size=-1"], "--cfg.parallel_config.vit_tp_size: -1 is less than 0"),
    "negative layers": ([*GUIDE, "--cfg.parallel_config.vit_pp_layers=[[3,-1]]"], "vit_pp_layers: has -1"),
    "ragged": ([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[[1,1],[2]]"], "llm_pp_layers: has lists of 2, 1 stages"),
    "mixed": ([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[[1],2]"], "llm_pp_layers: has numbers and lists side by side"),
    "empty": ([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[]"], "llm_pp_layers: is empty"),
    "empty row": ([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[[]]"], "llm_pp_layers: is empty"),
    "no list": ([*GUIDE, "--cfg.parallel_config.llm_pp_layers=4"], "llm_pp_layers: is of type list"),
    "empty path": ([*GENERIC[:3], "", *GENERIC[4:]], "--hf_dir: is empty"),
    "no file": ([*GUIDE[:2], "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    "style": (["moe_expert", "--style", "melt", "--hf_dir", "a", "--save_dir", "b"], "it is merge or split"),
    "version": (["OpenSoraPlanConverter", "--version", "v9", "hf_to_mm"], "v9"),
    "no source": ([*GENERIC[:3], "/nowhere", *GENERIC[4:]], "/nowhere does not exist"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_one_clear_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, words = WRONG[kind]
    assert words in refusal(argv, capsys)


def test_a_key_of_a_file_that_is_none_is_named_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, "c.yaml", {"cfg": {**PLACES, "parallel_config": {**CUT, "cp_size": 2}}})
    assert f"{path}: cfg.parallel_config.cp_size: there is no such key; there are llm_pp_layers" in refusal(
        [*GUIDE[:2], "--config", path], capsys
    )
    path = config(tmp_path, "d.yaml", {**PLACES, "parallel_config": CUT})
    assert f"{path}: mm_dir: there is no such key; there is cfg" in refusal([*GUIDE[:2], "--config", path], capsys)
    path = config(tmp_path, "e.yaml", {"hf_dir": "a", "dcp_dir": "b", "nope": 1})
    assert f"{path}: " in refusal([*GENERIC[:2], "--config", path], capsys)


def test_a_file_that_is_no_yaml_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("cfg: [")
    assert "bad.yaml, line 1: " in refusal([*GUIDE[:2], "--config", str(tmp_path / "bad.yaml")], capsys)


REFUSED = [(name, sub) for name, each in CONVERTERS.items() for sub, command in each.commands.items() if command.job is None]


def test_there_are_directions_that_make_no_sense() -> None:
    assert ("Qwen3VLConverter", "mm_to_hf") in REFUSED
    assert ("MOSSTTSConverter", "hf_to_dcp") in REFUSED


@pytest.mark.parametrize(("name", "sub"), REFUSED)
def test_what_is_not_converted_says_what_to_use(name: str, sub: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = CONVERTERS[name].commands[sub]
    needed = [word for flag in examples(command.takes, "cfg." if command.nested else "") for word in flag.split()]
    text = refusal([name, sub, *needed], capsys)
    assert "is not converted (" in text
    assert "use" in text


def test_a_job_of_names_says_them_both_ways() -> None:
    there = job_of([*GENERIC, "--dcp_prefix", "vlm.", "--hf_prefix", "model."])
    back = job_of(
        [
            "GenericDCPConverter",
            "dcp_to_hf",
            "--load_dir",
            "/dcp",
            "--save_dir",
            "/out",
            "--model_assets_dir",
            "/hf",
            "--dcp_prefix",
            "vlm.",
            "--hf_prefix",
            "model.",
        ]
    )
    assert there["target"]["names"] == back["source"]["names"] == {"model.": "vlm."}
    assert there["target"]["prefix"] == back["source"]["prefix"] == "model."
    assert there["target"]["release"] is True
    assert back["source"]["like_dir"] == back["target"]["assets_dir"] == "/hf"
    assert parse_job(there)
    assert parse_job(back)


@pytest.mark.parametrize(
    ("converter", "old", "new"), [("Qwen3VLConverter", "", ""), ("Mistral3Converter", "vision_tower.", "model.vision_tower.")]
)
def test_adapters_are_merged_under_the_names_that_training_has(converter: str, old: str, new: str) -> None:
    command = [converter, "merge_mm_lora_dcp_weight_to_base_hf", "--base_hf_dir", "/hf", "--lora_dcp_dir", "/dcp/release"]
    job = job_of([*command, "--lora_target_modules", "q_proj,v_proj", "--save_merged_hf_dir", "/out", "--scaling", "0.5"])
    assert (job["source"]["path"], job["target"]["config_dir"]) == ("/hf", "/hf")
    lora = job["source"]["lora"]
    assert (lora["path"], lora["scale"], lora["target_modules"]) == ("/dcp/release", 0.5, ["q_proj", "v_proj"])
    assert lora["names"][old] == f"model.base_model.model.model.{new}"


LAYERS = ["--cfg.parallel_config.llm_pp_layers", "[[2,2]]", "--cfg.parallel_config.vit_pp_layers", "[[3,0]]", "--cfg.mm_dir", "/mm"]
CANONICAL = ["--cfg.common_model_config.enable_canonical_hf_struct", "true"]


def test_adapters_in_rank_files_are_a_model_of_their_own() -> None:
    there = job_of(["Qwen2_5_VLConverter", "lora_hf_to_mm", "--cfg.hf_config.hf_dir", "/hf", *LAYERS, *CANONICAL])
    assert there["model_type"] == "qwen2.5-vl-lora"
    assert there["target"] == {"format": "mindspeed-mm-sora", "path": "/mm", "tp_size": 1, "pp_layers": [2, 2], "vit_pp_layers": [3, 0]}
    more = ["--cfg.common_model_config.model_prefix", "base_model.model.", "--cfg.common_model_config.new_transformers_weight_key", "true"]
    back = job_of(["Qwen2_5_VLConverter", "lora_mm_to_hf", "--cfg.save_hf_dir", "/out", *LAYERS, *CANONICAL, *more])
    assert back["source"] == there["target"]
    assert back["target"] == {"format": "diffusers", "path": "/out", "before_names": "base_model.model.", "form": "language_model"}


@pytest.mark.parametrize("flags", [[], [*CANONICAL, "--cfg.parallel_config.vit_tp_size", "2"]])
def test_adapters_of_what_is_fused_or_cut_otherwise_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = refusal(["Qwen2_5_VLConverter", "lora_hf_to_mm", "--cfg.hf_config.hf_dir", "/hf", *LAYERS, *flags], capsys)
    assert "adapters" in text


def test_lists_and_mappings_are_taken_as_json() -> None:
    job = job_of(
        [*GENERIC, '--fused_linear_names=["gate_up_proj", "down_proj"]', '--tie_weight_mapping={"lm_head.weight": "model.e.weight"}']
    )
    assert job["source"]["experts"] == {"": "input_first"}
    assert job["target"]["experts"] == {"": "input_first_flat"}
    assert job["target"]["copies"] == {"lm_head.weight": "model.e.weight"}


def test_half_of_the_experts_matrices_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "both of a layer's matrices go together" in refusal([*GENERIC, '--fused_linear_names=["gate_up_proj"]'], capsys)


def test_relative_paths_are_relative_to_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "hf").mkdir()
    (tmp_path / "conf").mkdir()
    tensors = {"model.layers.0.w": torch.arange(6.0).reshape(2, 3), "lm_head.weight": torch.ones(3)}
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "of-nobody"}')
    there = config(tmp_path / "conf", "c.yaml", {"hf_dir": "hf", "dcp_dir": "new/dcp", "dcp_prefix": "model."})
    monkeypatch.chdir(tmp_path)
    assert main([*GENERIC[:2], "--config", there]) == 0
    back = ["--load_dir", "new/dcp", "--save_dir", "back", "--model_assets_dir", "hf", "--dcp_prefix", "model."]
    assert main(["GenericDCPConverter", "dcp_to_hf", *back]) == 0
    assert capsys.readouterr().out.count("converted ") == 2
    read = {name: each for file in (tmp_path / "back").glob("*.safetensors") for name, each in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (tmp_path / "new" / "dcp" / "latest_checkpointed_iteration.txt").read_text() == "release"


def test_a_wrong_prefix_is_an_error_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "hf").mkdir()
    save_file({"a.w": torch.ones(3)}, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert main([*GENERIC[:2], "--hf_dir", str(tmp_path / "hf"), "--dcp_dir", str(tmp_path / "dcp"), "--dcp_prefix", "model."]) == 0
    places = ["--load_dir", str(tmp_path / "dcp"), "--save_dir", str(tmp_path / "out"), "--model_assets_dir", str(tmp_path / "hf")]
    assert "lacks 1 of the 1 weights" in refusal(["GenericDCPConverter", "dcp_to_hf", *places, "--dcp_prefix", "other."], capsys)
    assert not (tmp_path / "out").exists()


def resplit(*more: str, source: str = "[2,2]", target: str = "[[1,1],[1,1]]") -> list[str]:
    places = ["Qwen2VLConverter", "resplit", "--cfg.source_dir=/a", "--cfg.target_dir=/b"]
    cuts = [f"--cfg.source_parallel_config.llm_pp_layers={source}", f"--cfg.target_parallel_config.llm_pp_layers={target}"]
    return [*places, *cuts, *more]


def test_the_guides_command_is_a_job() -> None:
    assert job_of(GUIDE) == {
        "model_type": "qwen2-vl",
        "source": {"format": "huggingface", "path": PLACES["hf_config"]["hf_dir"], "own_head": True},  # type: ignore[index]  # a place of words, not one path
        "target": {"format": "mindspeed-mm", "path": PLACES["mm_dir"], **CUT},
        "options": {},
    }
    assert parse_job(job_of(GUIDE))


def test_the_way_back_takes_plain_lists_and_lists_of_lists() -> None:
    back = ["Qwen2VLConverter", "mm_to_hf", "--cfg.mm_dir=/mm", "--cfg.save_hf_dir=/out", "--cfg.hf_config.hf_dir=/hf"]
    for layers in ("[1,10,10,7]", "[[1,10,10,7]]", "[[1,2],[3,4]]"):
        job = job_of([*back, f"--cfg.parallel_config.llm_pp_layers={layers}", "--cfg.parallel_config.vit_tp_size=2"])
        assert job["source"]["llm_pp_layers"] == json.loads(layers)
        assert job["source"]["vit_tp_size"] == 2
        assert job["source"]["config_dir"] == job["source"]["like_dir"] == job["target"]["config_dir"] == "/hf"
        assert parse_job(job)


def test_the_way_there_takes_plain_lists_too() -> None:
    assert job_of([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[1,10,10,7]"])["target"]["llm_pp_layers"] == [1, 10, 10, 7]


def test_one_number_in_the_other_commands_depth_names_no_stages(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[28]"], capsys)
    assert "llm_pp_layers is [28]: one number names no stages (write [[28]] for one stage with all of them, or a number for each" in said
    assert "llm_pp_layers is [[4]]: one number names no stages (write [4] for one stage" in refusal(
        resplit("--cfg.hf_config.hf_dir=/hf", target="[[4]]"), capsys
    )
    assert job_of([*GUIDE, "--cfg.parallel_config.llm_pp_layers=[[28]]"])["target"]["llm_pp_layers"] == [[28]]
    assert job_of(resplit("--cfg.hf_config.hf_dir=/hf", target="[4]"))["target"]["llm_pp_layers"] == [4]
    assert job_of(resplit("--cfg.hf_config.hf_dir=/hf", target="[[2],[2]]"))["target"]["llm_pp_layers"] == [[2], [2]]


def test_resplit_asks_for_the_models_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--cfg.hf_config.hf_dir DIR" in refusal(["Qwen2_5_OmniConverter", *resplit()[1:]], capsys)
    job = job_of(resplit("--cfg.hf_config.hf_dir=/hf"))
    assert job["target"]["iteration"] == "release"
    assert (job["source"]["llm_pp_layers"], job["target"]["llm_pp_layers"]) == ([2, 2], [[1, 1], [1, 1]])
    assert parse_job(job)


def test_resplit_goes_without_a_configuration_where_names_and_shapes_show_the_sizes() -> None:
    job = job_of(resplit())
    assert job["model_type"] == "qwen2-vl"
    assert "config_dir" not in job["source"]
    assert parse_job(job)


def test_numbers_that_the_configuration_says_otherwise_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said_there = {"num_hidden_layers": 28, "tie_word_embeddings": False, "vision_config": {"depth": 32}}
    (tmp_path / "config.json").write_text(json.dumps(said_there))
    argv = [*GUIDE, f"--cfg.hf_config.hf_dir={tmp_path}"]
    common = "--cfg.common_model_config"
    for flag, there in {"llm_num_layers=4": 28, "vit_num_layers=3": 32, "tie_word_embeddings=true": False}.items():
        assert f"{tmp_path}/config.json says {there}" in refusal([*argv, f"{common}.{flag}"], capsys)
    job_of([*argv, f"{common}.llm_num_layers=28", f"{common}.vit_num_layers=32", f"{common}.audio_num_layers=7"])


@pytest.mark.parametrize(
    ("flag", "field"), [("pt_path=/x.pt", "weights_path"), ("common_model_config.llm_hf_dir=/x.pt", "text_decoder_dir")]
)
def test_weights_from_elsewhere_are_fields_of_the_source(flag: str, field: str) -> None:
    job = job_of([*GUIDE, f"--cfg.{flag}"])
    assert job["source"][field] == "/x.pt"
    assert parse_job(job)


def test_a_model_that_nobody_knows_yet_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from convsvc.cli.mm_convert import mm_jobs

    monkeypatch.setitem(mm_jobs.FAMILIES, "Qwen2VLConverter", "nobodys")
    assert "rank files of this model are not converted yet" in refusal(GUIDE, capsys)


def test_a_diffusion_models_commands_are_jobs() -> None:
    places = ["--cfg.source_path=/a", "--cfg.target_path=/b"]
    there = job_of(["WanConverter", "hf_to_mm", *places, "--cfg.target_parallel_config.pp_layers=[[1,1],[1,1]]"])
    assert there["target"] == {"format": "mindspeed-mm-sora", "path": "/b", "tp_size": 1, "pp_layers": [[1, 1], [1, 1]]}
    back = job_of(["WanConverter", "mm_to_hf", *places, "--cfg.hf_dir=/hf"])
    assert back["source"] == {"format": "mindspeed-mm-sora", "path": "/a", "config_dir": "/hf"}
    assert back["target"] == {"format": "diffusers", "path": "/b", "config_dir": "/hf"}
    assert job_of(["VACEConverter", "mm_to_hf", *places])["target"]["form"] == "original"
    assert all(map(parse_job, (there, back)))


def test_each_converter_has_a_family() -> None:
    from convsvc.cli.mm_convert.mm_jobs import FAMILIES, families_of

    assert {name for name in FAMILIES if not families_of(name)} == set()
    assert families_of("OpenSoraConverter") == ["opensora"]
    assert set(families_of("Qwen3VLMegatronConverter")) == {"qwen3-vl", "qwen3-vl-moe"}


def test_of_several_families_the_configuration_or_the_version_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["Qwen3VLMegatronConverter", *GUIDE[1:], f"--cfg.hf_config.hf_dir={tmp_path}"]
    assert "model_type" not in job_of(argv)
    for kind, family in {"qwen3_vl": "qwen3-vl", "qwen3_vl_moe": "qwen3-vl-moe"}.items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert job_of(argv)["model_type"] == family
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    assert "is the configuration of a qwen2-vl model (it converts qwen3-vl, qwen3-vl-moe)" in refusal(argv, capsys)
    for version in ("v1.2", "v1.3", "v1.5"):
        sora = ["OpenSoraPlanConverter", "--version", version, "hf_to_mm", "--cfg.source_path=/a", "--cfg.target_path=/b"]
        assert job_of(sora)["model_type"] == f"opensora-plan-{version}"


@pytest.mark.parametrize(
    ("own", "command", "tp", "words"),
    [
        (["HunyuanVideoConverter", "--version", "i2v"], "source_to_mm", 2, "version i2v is not cut over ranks"),
    ],
)
def test_what_a_converters_own_arguments_ask_for_is_done_or_refused(
    own: list[str], command: str, tp: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--cfg.source_path=/a", "--cfg.target_path=/b", f"--cfg.target_parallel_config.tp_size={tp}"]
    assert words in refusal([*own, command, *places], capsys)
    assert job_of([own[0], command, *places])
