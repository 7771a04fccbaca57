"""MindSpeed-MM's cases asked of the command itself, with the arguments that its users type; mindspeed_mm/PROVENANCE.md has the rules."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.distributed.checkpoint.state_dict_saver import _save_state_dict

from convsvc.cli.mm_convert import main
from tests.golden.mindspeed_mm_corpus import (
    DIGITS,
    Case,
    Digest,
    cases,
    digest,
    draw,
    expected_ranks,
    expected_tensors,
    fixture,
    manifest,
    read_ranks,
    read_tensors,
    write_input,
)
from tests.golden.outputs import file_states

pytestmark = pytest.mark.not_for_transformers
OF_DCP = {
    *("Qwen3VLConverter", "GenericDCPConverter", "Qwen35Converter", "Mistral3Converter", "ExpertMergeDcpConverter"),
    *("MOSSTTSConverter", "Qwen3TTSConverter", "moe_expert"),
}
# Done as it was asked for, where the source tool looks for a name that the published model does not have, and does nothing.
DONE_HERE = {"mistral-h2d-hfkw-tie"}
# A few of the rank files': `test_mindspeed_mm` has all of them, as jobs.
OF_RANK_FILES = (
    *("q2vl-h2m-tp2-pp1", "q25vl-m2h-tp2-pp2", "q2vl-rt-tp1-pp1", "wan-h2m", "wan-m2h-vpp2"),
    *("cli-yaml-override", "cli-yaml-two", "cli-cfg-file", "cli-cfg-json", "cli-env-doc"),
    *("va-ptpath", "q2vl-rt-tie-head-pp1", "q2vl-rt-tie-head-pp2"),
    *("q25vl-lora-h2m-tp1", "q25vl-lora-h2m-noprefix-ok", "q25vl-lora-h2m-newkeys", "q25vl-lora-m2h-tp2-pp2"),
)
REFUSED = (
    "q2vl-m2h-index-unknown-key",
    "q2vl-h2m-llmdir-empty",
    "q25vl-lora-h2m-noncanon",
    "q25vl-lora-h2m-nolayercheck",
    "q25vl-lora-m2h-noncanon",
)


def flags(tree: Mapping[str, Any], before: str = "") -> list[str]:
    """Arguments as a user types them."""
    typed: list[str] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and not value.get("__json__"):
            typed += flags(value, f"{before}{name}.")
        elif isinstance(value, Mapping):
            typed.append(f"--{before}{name}={json.dumps({key: each for key, each in value.items() if key != '__json__'})}")
        else:
            typed.append(f"--{before}{name}={value if isinstance(value, str) else json.dumps(value)}")
    return typed


def placed(value: Any, places: Mapping[str, Path]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: str(places[match[1]]) if match[1] in places else match[0], value)
    if isinstance(value, Mapping):
        return {name: placed(each, places) for name, each in value.items()}
    return [placed(each, places) for each in value] if isinstance(value, list) else value


def argv_of(step: Mapping[str, Any], places: Mapping[str, Path]) -> list[str]:
    if step.get("argv") is not None:
        return list(placed(step["argv"], places))
    nested = {"cfg": step["cfg"]} if "cfg" in step else {}
    said = placed({**nested, **step.get("args", {})}, places)
    own = [step["converter"], *flags(step.get("init", {})), *([step["subcommand"]] if step.get("subcommand") else [])]
    return [*own, *flags(said)]


def write_dcp(given: Mapping[str, Any], folder: Path) -> Path:
    """A checkpoint with the names and shapes that a case wrote, as MindSpeed-MM saves it: {"model": ...} in `release`."""
    names = manifest(given["layout"])["dirs"]["release"]["state"]
    state = {
        name.removeprefix("model/"): draw(given["seed"], name.removeprefix("model/"), given.get("cast", said[0]), said[1])
        for name, said in names.items()
        if name.startswith("model/") and isinstance(said, list)
    }
    kept = {name: each for name, each in state.items() if not any(re.search(pattern, name) for pattern in given.get("drop", ()))}
    (folder / "release").mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"):
        _save_state_dict({"model": kept, "checkpoint_version": 3.0}, storage_writer=FileSystemWriter(folder / "release"), no_dist=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    return folder / "release"


def prepare(case: Case, folder: Path) -> dict[str, Path]:
    places = {name: folder / name for name in (*case.said["inputs"], "mm_out", "hf_out", "dcp_out", "pt_out")}
    for name, given in case.said["inputs"].items():
        if given["kind"] == "dcp":
            places[name] = write_dcp(given, places[name])
        elif given["kind"] == "dir":
            for file, text in given["files"].items():
                (places[name] / file).parent.mkdir(parents=True, exist_ok=True)
                (places[name] / file).write_text(placed(text, places))
        else:
            places[name] = write_input(given, places[name])
    return places


def run(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Path], int]:
    """The places, and how the last command ended; inputs must stay as they were."""
    places = prepare(case, folder)
    given = [places[name] for name in case.said["inputs"] if places[name].is_dir()]
    before = [file_states(place) for place in given]
    for name, value in case.said.get("env", {}).items():
        monkeypatch.setenv(name, placed(value, places))
    ended = 0
    for step in case.steps:
        ended = ended or main(argv_of(step, places))
    assert [file_states(place) for place in given] == before
    return places, ended


def read_dcp(folder: Path) -> dict[str, Digest]:
    state: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        _load_state_dict(state, storage_reader=FileSystemReader(folder / "release"), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    assert set(state) == {"model"}
    return {f"model/{name}": digest(each) for name, each in state["model"].items()}


def expected_dcp(case: Case) -> dict[str, Digest]:
    state = manifest(case.id)["dirs"]["release"]["state"]
    tags = {"bf16": "bf16", "f32": "f32", "f16": "f16"}
    return {name: (tags[said[0]], tuple(said[1]), said[2][:DIGITS]) for name, said in state.items() if isinstance(said, list)}


def check(case: Case, places: Mapping[str, Path]) -> None:
    if case.said.get("steps"):
        source, result = case.said["compare"]["source"], case.said["compare"]["result"]
        assert read_tensors(places[result]) == read_tensors(places[source])
        return
    kind, out = case.said["output"]["kind"], places[case.said["output"]["dir"]]
    if kind == "dcp":
        assert read_dcp(out) == expected_dcp(case)
        assert (out / "latest_checkpointed_iteration.txt").read_text() == "release"
    elif kind == "mm":
        assert read_ranks(out) == expected_ranks(manifest(case.id))
    else:
        assert read_tensors(out) == expected_tensors(manifest(case.id))


def select(*verdicts: str, but: frozenset[str] = frozenset()) -> list[Any]:
    chosen = [case for case in cases() if case.converter in OF_DCP and case.verdict in verdicts and case.id not in but]
    return [pytest.param(case, id=case.id) for case in chosen]


@pytest.mark.parametrize("case", select("reference"))
def test_the_command_writes_what_the_source_tool_writes(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, ended = run(case, tmp_path, monkeypatch)
    assert ended == 0
    check(case, places)


@pytest.mark.parametrize("case", select("peer_quirk", but=frozenset(DONE_HERE)))
def test_where_several_answers_are_right_ours_is_the_source_tools(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, ended = run(case, tmp_path, monkeypatch)
    assert ended == 0
    check(case, places)


@pytest.mark.parametrize("case", select("peer_bug", "reject", "noop"))
def test_where_the_source_tool_is_wrong_the_command_is_right_or_refuses(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places, ended = run(case, tmp_path, monkeypatch)
    if ended:
        assert len([line for line in capsys.readouterr().err.splitlines() if not line.startswith(("note", "ignored", "advice"))]) == 1
        outs = [places[name] for name in ("mm_out", "hf_out", "dcp_out") if places[name].exists()]
        assert case.said.get("steps") or not outs
    elif case.said.get("steps"):
        check(case, places)
    else:
        assert case.verdict == "peer_bug"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases() if case.id in OF_RANK_FILES])
def test_rank_files_are_written_by_the_command_as_by_a_job(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, ended = run(case, tmp_path, monkeypatch)
    assert ended == 0
    check(case, places)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases() if case.id in REFUSED])
def test_what_would_lose_tensors_is_refused_by_the_command(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places, ended = run(case, tmp_path, monkeypatch)
    assert ended
    assert not [places[name] for name in ("mm_out", "hf_out") if places[name].exists()]


OF_THE_COMMAND_LINE = [case for case in cases() if case.id.startswith("cli-") and case.verdict == "reject"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in OF_THE_COMMAND_LINE])
def test_a_mistake_on_the_command_line_is_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(case, tmp_path, monkeypatch)[1] == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_cases_are_there() -> None:
    assert len(select("reference")) >= 30
    assert len(OF_THE_COMMAND_LINE) >= 5
    assert {case.id for case in cases()} >= set(OF_RANK_FILES)
    assert torch.__version__


def write_guides_model(folder: Path) -> Path:
    """Qwen2-VL with as many layers as the guide's model, 28 and 32, and hardly anything in them."""
    made = fixture("qwen2vl")
    shapes: dict[str, Any] = {}
    for name, said in made["tensors"].items():
        layer = re.search(r"(layers|blocks)\.(\d+)\.", name)
        count = {None: 1, "layers": 28, "blocks": 32}[layer and layer[1]]
        if layer is None or layer[2] == "0":
            shapes |= {name if layer is None else name.replace(layer[0], f"{layer[1]}.{at}.", 1): said for at in range(count)}
    config = {**made["config"], "num_hidden_layers": 28, "vision_config": {**made["config"]["vision_config"], "depth": 32}}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: draw(1, name, *said) for name, said in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_guides_commands_run_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/mindspeed-mm.md has them, too."""
    page = (Path(__file__).parents[2] / "docs" / "mindspeed-mm.md").read_text().replace("\\\n", " ")
    lines = [line.split()[1:] for line in page.splitlines() if line.startswith("mm-convert Qwen2VLConverter") and "--cfg" in line]
    source = write_guides_model(tmp_path / "ckpt" / "hf" / "Qwen2-VL-7B")
    monkeypatch.chdir(tmp_path)
    assert [line[1] for line in lines] == ["hf_to_mm", "mm_to_hf"]
    for line in lines:
        assert main(line) == 0
    assert [name.name for name in sorted((tmp_path / "ckpt" / "mm" / "Qwen2-VL-7B" / "release").iterdir())] == [
        f"mp_rank_00_{stage:03d}" for stage in range(4)
    ]
    assert read_tensors(tmp_path / "ckpt" / "out") == read_tensors(source)
