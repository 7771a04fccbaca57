"""What MindSpeed-MM's mm-convert writes for vision-language models, asked of job JSON; mindspeed_mm/PROVENANCE.md has the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError, LayoutError, PlanError, SourceError
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
MODEL_TYPES = {"Qwen2VLConverter": "qwen2-vl", "Qwen2_5_VLConverter": "qwen2.5-vl", "VideoAlignConverter": "videoalign"}
# The fixtures whose configuration reads them: what comes back of both cuts must be the same.
MODELS = {"Qwen2VLConverter": "qwen2vl", "Qwen2_5_VLConverter": "qwen2_5vl", "VideoAlignConverter": "videoalign_plain"}
# What a command line refuses, and a job has no such field for, or says in another way.
OF_THE_COMMAND_LINE = {"q2vl-val-onedim", "q2vl-val-unknown-key", "q2vl-val-missing-mmdir", "q2vl-val-missing-parallel"}
# Refused there, and done here: two-dimensional lists on the way back, no index beside one file.
DONE_HERE = {"q2vl-m2h-vpp-2d", "q2vl-m2h-noindex"}


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
        there = place(config["hf_config"]["hf_dir"])
        beside = {"config_dir": there, "like_dir": there, **structure, **layout()}
        return {"source": mm(place(config["mm_dir"]), **beside), "target": hf(place(config["save_hf_dir"]))}
    if subcommand == "resplit":
        source = mm(place(config["source_dir"]), **layout("source_parallel_config"))
        target = mm(place(config["target_dir"]), **layout("target_parallel_config"))
        return {"source": source, "target": target, "model_type": MODEL_TYPES[step["converter"]]}
    shape = {"ldt": True} if subcommand == "hf_to_mm_ldt" else {}
    alone = {"save_vit_only": True} if config.get("save_vit_only") else {}
    alone |= {"resize_vocab_size": common["resize_vocab_size"]} if "resize_vocab_size" in common else {}
    parts = {"weights_path": place(config["pt_path"])} if "pt_path" in config else {}
    parts |= {"text_decoder_dir": place(common["llm_hf_dir"])} if "llm_hf_dir" in common else {}
    return {
        "options": {"on_loss": "note"} if "resize_vocab_size" in common else {},
        "source": hf(place(config["hf_config"]["hf_dir"]), own_head=True, **parts),
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
        places[name] = write_input(given, places[name])
    for step in case.steps:
        convert(job_of(step, places))
    return places


def select(verdicts: tuple[str, ...], *subcommands: str, but: set[str] = frozenset()) -> list[Any]:  # type: ignore[assignment]
    chosen = [case for case in cases() if case.converter in CONVERTERS and case.subcommand in subcommands and case.verdict in verdicts]
    return [pytest.param(case, id=case.id) for case in chosen if case.id not in but and ("cfg" in case.said or "steps" in case.said)]


@pytest.mark.parametrize("case", select(("reference",), "hf_to_mm", "hf_to_mm_ldt"))
def test_rank_files_are_what_the_source_tool_writes(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_ranks(places["mm_out"]) == expected_ranks(manifest(case.id))


@pytest.mark.parametrize("case", [param for param in select(("reference",), "resplit") if param.values[0].converter in MODEL_TYPES])
def test_rank_files_are_cut_anew_as_the_source_tool_does_without_a_configuration(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_ranks(places["mm_out"]) == expected_ranks(manifest(case.id))


@pytest.mark.parametrize("case", select(("peer_bug",), "resplit", but={"q2vl-rs-vpp-source", "q2vl-rs-oddvocab", "va-resplit-tp1"}))
def test_rank_files_that_are_cut_anew_keep_their_form_and_every_value(case: Case, tmp_path: Path) -> None:
    """Towers of a size of their own, canonical names that no argument says: there the source tool doubles or loses rows."""
    places = run(case, tmp_path)
    beside = write_input({"kind": "hf", "fixture": MODELS[case.converter], "seed": 1}, tmp_path / "hf")
    back = {}
    for name in ("mm", "mm_out"):
        source = mm(str(places[name]), config_dir=str(beside))
        convert({"source": source, "target": hf(str(tmp_path / f"{name}_hf"), config_dir=str(beside))})
        back[name] = read_tensors(tmp_path / f"{name}_hf")
    assert back["mm"] == back["mm_out"]
    assert forms(places["mm"]) == forms(places["mm_out"])


def forms(directory: Path) -> set[str]:
    """The parameters' names without the numbers of layers, and without the output layer, which several stages have of a tied model."""
    ranks = [torch.load(path, weights_only=True) for path in directory.rglob("*.pt")]
    named = {name for rank in ranks for key, held in rank.items() if key.startswith("model") for name in held}
    return {re.sub(r"\d+", "", name) for name in named if "output_layer" not in name}


def test_a_job_may_ask_for_another_form(tmp_path: Path) -> None:
    case = next(each for each in cases() if each.id == "q25vl-rs-canon")
    source = write_input(case.said["inputs"]["mm"], tmp_path / "mm")
    target = mm(str(tmp_path / "out"), enable_canonical_hf_struct=False)
    convert({"source": mm(str(source)), "target": target, "model_type": "qwen2.5-vl"})
    assert not any("gate_proj" in name for name in forms(tmp_path / "out"))
    assert any("gate_proj" in name for name in forms(source))


@pytest.mark.parametrize("case", select(("reference",), "mm_to_hf"))
def test_hugging_face_directories_are_what_the_source_tool_writes(case: Case, tmp_path: Path) -> None:
    places = run(case, tmp_path)
    assert read_tensors(places["hf_out"]) == expected_tensors(manifest(case.id))


@pytest.mark.parametrize("case", select(("reference",), "roundtrip"))
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


def put_together(folder: Path, llm: Mapping[str, Any], **cut: Any) -> dict[str, Any]:
    """The job of a model whose text decoder is another directory's."""
    write_input({"kind": "hf", "fixture": "qwen2vl", "seed": 1}, folder / "hf")
    write_input({"kind": "hf", "fixture": "qwen2_llm", "seed": 9, **llm}, folder / "llm")
    target = mm(str(folder / "mm"), **{"llm_pp_layers": [4], "vit_pp_layers": [3], **cut})
    return {"source": hf(str(folder / "hf"), text_decoder_dir=str(folder / "llm")), "target": target}


@pytest.mark.parametrize("case", ["q2vl-h2m-llmdir", "q2vl-h2m-llmdir-tp2-pp2"])
def test_another_text_decoder_takes_the_place_of_a_models_own_and_its_projector_stays(case: str, tmp_path: Path) -> None:
    """The source tool writes the same, and loses the projector (`visual.merger`)."""
    cut = next(each for each in cases() if each.id == case).said["cfg"]["parallel_config"]
    convert(put_together(tmp_path, {}, **cut))
    written = read_ranks(tmp_path / "mm")
    projector = [name for models in written.values() for name in models["model"] if "projector" in name]
    assert len(set(projector)) == 6
    without = {
        rank: {key: {name: each for name, each in held.items() if "projector" not in name} for key, held in models.items()}
        for rank, models in written.items()
    }
    assert without == expected_ranks(manifest(case))


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ({"drop": ["layers.2.mlp.up_proj"]}, "lacks model.layers.2.mlp.up_proj.weight"),
        ({"drop": ["lm_head"]}, "lacks lm_head.weight"),
        ({"add": {"model.layers.0.extra.weight": ["bf16", [2, 2]]}}, "has model.layers.0.extra.weight, of which there is none"),
    ],
)
def test_a_text_decoder_that_is_not_the_models_is_refused_with_what_is_wrong(llm: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not hold the text decoder of") as refused:
        convert(put_together(tmp_path, llm))
    assert said in refused.value.facts


def test_what_an_index_lists_and_rank_files_lack_is_named(tmp_path: Path) -> None:
    case = next(each for each in cases() if each.id == "q2vl-m2h-index-unknown-key")
    with pytest.raises(SourceError, match="lacks 1 of the") as refused:
        run(case, tmp_path)
    assert list(refused.value.facts) == ["model.extra_head.weight"]


@pytest.mark.parametrize("stages", [[4], [2, 2]])
def test_a_head_of_its_own_is_kept_and_the_configuration_says_so(stages: list[int], tmp_path: Path) -> None:
    """The source tool keeps it in one stage, and replaces it by the embedding in several; transformers would ignore it."""
    write_input({"kind": "hf", "fixture": "qwen2vl_tie_with_head", "seed": 1}, tmp_path / "hf")
    target = mm(str(tmp_path / "mm"), llm_pp_layers=stages, vit_pp_layers=[3])
    there = str(tmp_path / "hf")
    with pytest.raises(ConvsvcError, match="the copies differ"):
        convert({"source": hf(there), "target": target})
    convert({"source": hf(there, own_head=True), "target": target})
    source = mm(str(tmp_path / "mm"), config_dir=there, like_dir=there)
    convert({"source": source, "target": hf(str(tmp_path / "out"), config_dir=there)})
    assert read_tensors(tmp_path / "out") == read_tensors(tmp_path / "hf")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
