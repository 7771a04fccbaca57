"""What MindSpeed-MM's mm-convert writes for vision-language models, asked of job JSON; mindspeed_mm/PROVENANCE.md has the rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, LayoutError, PlanError
from tests.golden.mindspeed_mm_corpus import (
    Case,
    cases,
    expected_ranks,
    expected_tensors,
    manifest,
    read_ranks,
    read_tensors,
    write_input,
)

# transformers has no class for these sizes' configurations, or loads them under other names.
pytestmark = pytest.mark.not_for_transformers
CONVERTERS = (
    "Qwen2VLConverter", "Qwen2_5_VLConverter", "Qwen2_5_OmniConverter", "InternVLConverter", "Qwen3VLMegatronConverter", "GlmConverter",
    "DeepSeekVLConverter", "VideoAlignConverter",
)  # fmt: skip
LAYOUT = ("llm_pp_layers", "vit_pp_layers", "audio_pp_layers", "tp_size", "vit_tp_size", "audio_tp_size", "ep_size")
MODEL_TYPES = {"Qwen2VLConverter": "qwen2-vl", "Qwen2_5_VLConverter": "qwen2.5-vl"}
# What a command line refuses, and a job has no such field for, or says in another way.
OF_THE_COMMAND_LINE = {"q2vl-val-onedim", "q2vl-val-unknown-key", "q2vl-val-missing-mmdir", "q2vl-val-missing-parallel"}
# Refused there, and done here: two-dimensional lists on the way back, no index beside one file, an index that lists what was dropped.
DONE_HERE = {"q2vl-m2h-vpp-2d", "q2vl-m2h-noindex", "q2vl-m2h-index-unknown-key"}
# A head of its own beside a configuration that says there is none: refused, as transformers would not load it.
TIED_WITH_A_HEAD = {"q2vl-rt-tie-head-pp1"}
# Weights of a .pt file beside the configuration of a directory.
OF_A_FILE = {"va-ptpath"}


def job_of(step: Mapping[str, Any], places: Mapping[str, Path]) -> dict[str, Any]:
    """A converter's command as a job."""
    config, subcommand = step["cfg"], step["subcommand"]
    common = config.get("common_model_config", {})
    structure = {"enable_canonical_hf_struct": True} if common.get("enable_canonical_hf_struct") else {}

    def place(text: str) -> str:
        return str(places[text.strip("{}")])

    def layout(name: str = "parallel_config") -> dict[str, Any]:
        return {field: value for field, value in config.get(name, {}).items() if field in LAYOUT}

    if subcommand == "mm_to_hf":
        beside = {"config_dir": place(config["hf_config"]["hf_dir"]), **structure, **layout()}
        return {"source": mm(place(config["mm_dir"]), **beside), "target": hf(place(config["save_hf_dir"]))}
    if subcommand == "resplit":
        source = mm(place(config["source_dir"]), **layout("source_parallel_config"))
        target = mm(place(config["target_dir"]), **layout("target_parallel_config"))
        return {"source": source, "target": target, "model_type": MODEL_TYPES[step["converter"]]}
    shape = {"ldt": True} if subcommand == "hf_to_mm_ldt" else {}
    alone = {"save_vit_only": True} if config.get("save_vit_only") else {}
    alone |= {"resize_vocab_size": common["resize_vocab_size"]} if "resize_vocab_size" in common else {}
    return {
        "options": {"on_loss": "note"} if "resize_vocab_size" in common else {},
        "source": hf(place(config["hf_config"]["hf_dir"])),
        "target": mm(place(config["mm_dir"]), **structure, **shape, **alone, **layout()),
    }


def mm(path: str, **more: Any) -> dict[str, Any]:
    return {"format": "mindspeed-mm", "path": path, **more}


def hf(path: str, **more: Any) -> dict[str, Any]:
    return {"format": "huggingface", "path": path, **more}


def run(case: Case, folder: Path) -> dict[str, Path]:
    """Does what the case asks for; the places by their names."""
    places = {name: folder / name for name in (*case.said["inputs"], "mm_out", "hf_out")}
    for name, given in case.said["inputs"].items():
        write_input(given, places[name])
    for step in case.steps:
        convert(job_of(step, places))
    return places


def select(verdicts: tuple[str, ...], *subcommands: str, but: set[str] = frozenset()) -> list[Any]:  # type: ignore[assignment]
    chosen = [case for case in cases() if case.converter in CONVERTERS and case.subcommand in subcommands and case.verdict in verdicts]
    return [pytest.param(case, id=case.id) for case in chosen if case.id not in but and ("cfg" in case.said or "steps" in case.said)]


@pytest.mark.parametrize("case", select(("reference",), "hf_to_mm", "hf_to_mm_ldt", but=OF_A_FILE))
def test_rank_files_are_what_the_source_tool_writes(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_ranks(places["mm_out"]) == expected_ranks(manifest(case.id))


@pytest.mark.parametrize("case", [param for param in select(("reference",), "resplit") if param.values[0].converter in MODEL_TYPES])
def test_rank_files_are_cut_anew_as_the_source_tool_does_without_a_configuration(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_ranks(places["mm_out"]) == expected_ranks(manifest(case.id))


@pytest.mark.parametrize("case", select(("reference",), "mm_to_hf"))
def test_hugging_face_directories_are_what_the_source_tool_writes(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_tensors(places["hf_out"]) == expected_tensors(manifest(case.id))


@pytest.mark.parametrize("case", select(("reference",), "roundtrip", but=TIED_WITH_A_HEAD))
def test_there_and_back_is_the_identity(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_tensors(places["hf_out"]) == read_tensors(places["hf"])


@pytest.mark.parametrize("case", select(("reject",), "hf_to_mm", "mm_to_hf", but=OF_THE_COMMAND_LINE | DONE_HERE))
def test_a_bad_request_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ConvsvcError):
        run(case, tmp_path)


def run_or_refuse(case: Case, folder: Path) -> dict[str, Path] | None:
    """As `run`; None where that is refused."""
    try:
        return run(case, folder)
    except ConvsvcError:
        return None


@pytest.mark.parametrize("case", select(("peer_bug",), "roundtrip"))
def test_where_the_source_tool_is_wrong_we_are_right_or_refuse(case: Case, tmp_path: Path) -> None:
    places = run_or_refuse(case, tmp_path)
    assert places is None or read_tensors(places["hf_out"]) == read_tensors(places["hf"])


@pytest.mark.parametrize("case", select(("peer_bug",), "hf_to_mm"))
def test_where_the_source_tool_loses_tensors_we_do_not(case: Case, tmp_path: Path) -> None:
    """Refused; or every tensor comes back, and where a right answer is known it is that."""
    places = run_or_refuse(case, tmp_path)
    if places is None:
        return
    if case.said.get("corrected"):
        assert read_ranks(places["mm_out"]) == expected_ranks(manifest(case.id))
    back = {"source": mm(str(places["mm_out"]), config_dir=str(places["hf"])), "target": hf(str(places["hf_out"]))}
    if case.said["cfg"].get("save_vit_only"):
        held = [name for rank in read_ranks(places["mm_out"]).values() for part in rank.values() for name in part]
        assert any(name.startswith("image_encoder.") for name in held)
        with pytest.raises(LayoutError, match="text_decoder"):
            convert(back)
        return
    convert(back)
    assert read_tensors(places["hf_out"]) == read_tensors(places["hf"])


def test_rows_beyond_a_smaller_vocabulary_are_a_loss_that_the_job_must_allow(tmp_path: Path) -> None:
    write_input({"kind": "hf", "fixture": "qwen2vl", "seed": 1}, tmp_path / "hf")
    target = mm(str(tmp_path / "mm"), llm_pp_layers=[4], vit_pp_layers=[3], resize_vocab_size=88)
    job = {"source": hf(str(tmp_path / "hf")), "target": target}
    with pytest.raises(PlanError, match="would be lost") as lost:
        convert(job)
    assert "embedding.word_embeddings.weight: rows 88 to 95 are left out: the target has room for 88" in lost.value.facts
    convert({**job, "options": {"on_loss": "note"}})
    assert not (tmp_path / "mm" / "release" / "mp_rank_01").exists()
