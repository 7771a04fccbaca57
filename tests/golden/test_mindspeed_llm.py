"""What MindSpeed-LLM's convert_ckpt_v2.py writes, asked of our drop-in with the same flags; PROVENANCE.md has the rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convsvc.cli.convert_ckpt_v2 import main
from convsvc.families import FAMILIES
from tests.golden.corpus import Case, cases, command_line, digest, fixture, manifest, source_tensors, write_huggingface
from tests.golden.megatron_inputs import write_megatron
from tests.golden.modes import use_way, way_of
from tests.golden.outputs import (
    differences,
    expected_huggingface,
    expected_megatron,
    file_states,
    read_huggingface,
    read_megatron,
    what_looks_complete,
)

# What a checkpoint's saved args answer; the way back must work, and give the same, without them.
SAVED_IN_ARGS = {
    "moe-grouped-gemm", "noop-layers", "mtp-num-layers", "mla-mm-split", "schedules-method", "transformer-impl", "moe-tp-extend-ep",
    "expert-tensor-parallel-size",
}  # fmt: skip
# Those that the source tool has.
OF_THE_TOOL = {
    "HYV3", "bailing_mini", "deepseek2", "deepseek2-lite", "deepseek3", "deepseek32", "deepseek4", "deepseek4_base", "gemma2", "glm45",
    "glm45-air", "glm5", "llama2", "longcat", "magistral", "mamba2", "minimax_m2", "phi3.5", "phi3.5-moe", "plm", "qwen2-moe", "qwen25",
    "qwen3", "qwen3-moe", "qwen3-next", "seed-oss",
}  # fmt: skip
BARE_EXCEPTION = re.compile(r"(error: )?(\w+\.)*(\w+Error|\w+Exception)\b:? ?'?")


def select(direction: str, trust: str) -> list[Any]:
    return [pytest.param(case, id=case.id) for case in cases() if (case.direction, case.trust) == (direction, trust)]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a case's directories lie."""

    huggingface: Path
    megatron: Path
    lora: Path
    out: Path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "hf", tmp_path / "mg", tmp_path / "lora", tmp_path / "out")


@dataclass(frozen=True, slots=True)
class Converter:
    """Runs the drop-in in this process, as its console script does."""

    captured: pytest.CaptureFixture[str]
    places: Places

    def run(self, case: Case, load: str, save: str, source: Path, target: Path, args: Mapping[str, Any]) -> tuple[int, str]:
        """(exit status, what it printed on stderr)."""
        stand_ins = {"<HF>": self.places.huggingface, "<LORA>": self.places.lora}
        given = {
            "load-model-type": load, "save-model-type": save, "load-dir": str(source), "save-dir": str(target),
            "model-type-hf": case.family_flag, **args,
        }  # fmt: skip
        self.captured.readouterr()
        status = main(command_line(given, stand_ins))
        return status, self.captured.readouterr().err

    def convert(self, case: Case, load: str, save: str, source: Path, target: Path, args: Mapping[str, Any]) -> None:
        status, error = self.run(case, load, save, source, target, args)
        assert status == 0, error


@pytest.fixture
def converter(capsys: pytest.CaptureFixture[str], places: Places) -> Converter:
    return Converter(capsys, places)


@pytest.fixture
def one_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are moved in one of the ways: whichever it is, nothing may be different."""
    way = way_of(request.getfixturevalue("case").id)
    request.node.add_report_section("setup", "way of moving bytes", way)
    use_way(way, monkeypatch)


def write_input(case: Case, places: Places) -> Path:
    """Write the case's input; returns the checkpoint to convert."""
    if "manifest_of" not in case.input or case.args.get("hf-cfg-dir") == "<HF>":
        write_huggingface(fixture(case.fixture), places.huggingface)
    if "manifest_of" not in case.input:
        return places.huggingface
    write_megatron(manifest(case.input["manifest_of"]), case.input, places.megatron, places.lora)
    return places.megatron


def is_clear(status: int, error: str) -> bool:
    """A refusal a user can act on: one message, neither a traceback nor a bare exception."""
    lines = [line for line in error.splitlines() if line.strip()]
    return status not in (0, 1) and bool(lines) and "Traceback" not in error and not BARE_EXCEPTION.match(lines[-1])


def test_the_corpus_is_there_and_holds_every_kind_of_case() -> None:
    kinds = {(case.direction, case.trust) for case in cases()}
    assert len(cases()) >= 500
    assert {case.family for case in cases()} == OF_THE_TOOL <= set(FAMILIES)
    assert kinds >= {(direction, trust) for direction in ("hf2mg", "mg2hf") for trust in ("exact", "must_error", "policy", "peer_bug")}
    assert all(manifest(case.id) for case in cases() if case.expected)
    assert {fixture(case.fixture)["family"] for case in cases()} == {case.family for case in cases()}


@pytest.mark.usefixtures("one_way")
@pytest.mark.parametrize("case", select("hf2mg", "exact"))
def test_huggingface_becomes_the_rank_files_that_the_source_tool_writes(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    before = file_states(source)
    converter.convert(case, "hf", "mg", source, places.out, case.args)
    want, have = expected_megatron(manifest(case.id)), read_megatron(places.out)
    assert not differences(want.tensors, have.tensors)
    assert (have.ranks, have.iterations, have.tracker) == (want.ranks, want.iterations, want.tracker)
    assert file_states(source) == before


@pytest.mark.usefixtures("one_way")
@pytest.mark.parametrize("case", select("mg2hf", "exact"))
def test_rank_files_become_the_huggingface_tensors_that_the_source_tool_writes(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    before = file_states(source) | file_states(places.lora)
    want = expected_huggingface(manifest(case.id))
    converter.convert(case, "mg", "hf", source, places.out, case.args)
    assert not differences(want, read_huggingface(places.out))
    saved = manifest(case.input["manifest_of"]).get("args", {}) | dict(case.input.get("args_patch", {}))
    answered = {name for name in SAVED_IN_ARGS & set(case.args) if str(saved.get(name.replace("-", "_"))) == str(case.args[name])}
    if answered:
        again = places.out.with_name("auto")
        converter.convert(case, "mg", "hf", source, again, {name: value for name, value in case.args.items() if name not in answered})
        assert not differences(want, read_huggingface(again))
    assert file_states(source) | file_states(places.lora) == before


@pytest.mark.usefixtures("one_way")
@pytest.mark.parametrize("case", select("mg2mg", "exact"))
def test_rank_files_become_those_of_another_layout_that_the_source_tool_writes(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    before = file_states(source)
    converter.convert(case, "mg", "mg", source, places.out, case.args)
    want, have = expected_megatron(manifest(case.id)), read_megatron(places.out)
    assert not differences(want.tensors, have.tensors)
    assert (have.ranks, have.iterations, have.tracker) == (want.ranks, want.iterations, want.tracker)
    assert file_states(source) == before


@pytest.mark.usefixtures("one_way")
@pytest.mark.parametrize("case", select("roundtrip", "exact"))
def test_there_and_back_is_the_identity_with_and_without_repeated_flags(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    want = {name: digest(tensor) for name, tensor in source_tensors(fixture(case.fixture))}
    converter.convert(case, "hf", "mg", source, places.megatron, case.args)
    converter.convert(case, "mg", "hf", places.megatron, places.out, case.args_back)
    assert not differences(want, read_huggingface(places.out))
    if SAVED_IN_ARGS & set(case.args_back):
        again = places.out.with_name("auto")
        left = {name: value for name, value in case.args_back.items() if name not in SAVED_IN_ARGS}
        converter.convert(case, "mg", "hf", places.megatron, again, left)
        assert not differences(want, read_huggingface(again))


@pytest.mark.parametrize("case", select("hf2mg", "must_error") + select("mg2hf", "must_error"))
def test_a_bad_request_is_refused_clearly_and_leaves_nothing_that_looks_complete(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    before = file_states(source) | file_states(places.lora)
    load, save = case.direction.split("2")
    status, error = converter.run(case, load, save, source, places.out, case.args)
    assert is_clear(status, error), (status, error)
    assert not what_looks_complete(places.out)
    assert file_states(source) | file_states(places.lora) == before


@pytest.mark.parametrize("case", select("roundtrip", "must_error"))
def test_a_bad_request_is_refused_before_anything_looks_complete(case: Case, places: Places, converter: Converter) -> None:
    status, error = converter.run(case, "hf", "mg", write_input(case, places), places.megatron, case.args)
    assert is_clear(status, error), (status, error)
    assert not what_looks_complete(places.megatron)


@pytest.mark.parametrize("case", select("roundtrip", "peer_bug"))
def test_where_the_source_tool_loses_weights_we_give_them_back_or_refuse(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    status, error = converter.run(case, "hf", "mg", source, places.megatron, case.args)
    if status == 0:
        status, error = converter.run(case, "mg", "hf", places.megatron, places.out, case.args_back)
    if status == 0:
        want = {name: digest(tensor) for name, tensor in source_tensors(fixture(case.fixture))}
        assert not differences(want, read_huggingface(places.out))
    else:
        assert is_clear(status, error), (status, error)
        assert not what_looks_complete(places.out)


@pytest.mark.parametrize("case", select("hf2mg", "peer_bug"))
def test_what_the_source_tool_does_wrongly_is_refused_or_can_be_taken_back(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    status, error = converter.run(case, "hf", "mg", source, places.megatron, case.args)
    if status == 0:
        converter.convert(case, "mg", "hf", places.megatron, places.out, {})
        assert not differences(
            {name: digest(tensor) for name, tensor in source_tensors(fixture(case.fixture))}, read_huggingface(places.out)
        )
    else:
        assert is_clear(status, error), (status, error)
        assert not what_looks_complete(places.megatron)


@pytest.mark.parametrize("case", select("hf2mg", "policy") + select("mg2hf", "policy"))
def test_a_debatable_request_is_done_or_refused_clearly(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    load, save = case.direction.split("2")
    status, error = converter.run(case, load, save, source, places.out, case.args)
    assert what_looks_complete(places.out) if status == 0 else is_clear(status, error), (status, error)


@pytest.mark.parametrize(
    ("case_id", "same_as"),
    [
        pytest.param("qwen3.tp2.release.mg2hf", "qwen3.tp2.mg2hf", id="a tracker that says release"),
        pytest.param("qwen3.tp2.trained_gqa_args.mg2hf", "qwen3.tp2.mg2hf", id="args as training saves them"),
        pytest.param("qwen3.pp2_dualpipev.no_sched_flag.mg2hf", "qwen3.pp2_dualpipev.mg2hf", id="no flag for the schedule"),
        pytest.param("qwen3__6layers.pp2_noop0-7.no_noop_flag.mg2hf", "qwen3__6layers.pp2_noop0-7.mg2hf", id="no flag for noop layers"),
    ],
)
def test_a_checkpoint_that_the_source_tool_cannot_read_gives_the_same_tensors(
    case_id: str, same_as: str, places: Places, converter: Converter
) -> None:
    (case,) = (each for each in cases() if each.id == case_id)
    (plain,) = (each for each in cases() if each.id == same_as)
    assert case.input["manifest_of"] == plain.input["manifest_of"]
    converter.convert(case, "mg", "hf", write_input(case, places), places.out, case.args)
    assert not differences(expected_huggingface(manifest(same_as)), read_huggingface(places.out))


def test_a_flag_that_contradicts_the_checkpoint_is_refused(places: Places, converter: Converter) -> None:
    (case,) = (each for each in cases() if each.id == "qwen3-moe.tp2ep2_gg.ext_flag.mg2hf")
    status, error = converter.run(case, "mg", "hf", write_input(case, places), places.out, case.args)
    assert is_clear(status, error)
    assert "moe_tp_extend_ep" in error
    assert not what_looks_complete(places.out)


@pytest.mark.parametrize("case", [case for case in select("mg2hf", "peer_bug") if case.values[0].quirk == "Q-NOOP-FIRST-STAGE"])
def test_the_embedding_that_the_source_tool_forgets_is_all_we_add(case: Case, places: Places, converter: Converter) -> None:
    source = write_input(case, places)
    converter.convert(case, "mg", "hf", source, places.out, case.args)
    have = read_huggingface(places.out)
    assert have.pop("model.embed_tokens.weight")[1] == (128, 64)
    assert not differences(expected_huggingface(manifest(case.id)), have)
