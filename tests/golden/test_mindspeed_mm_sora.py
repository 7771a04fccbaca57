"""Diffusion models between their published forms and MindSpeed-MM's rank files: what the source tool writes, where that is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import ConvsvcError
from tests.golden.diffusion_inputs import (
    expected_tensors,
    job,
    published_tensors,
    read_published,
    read_tops,
    write_published,
    write_ranks,
)
from tests.golden.mindspeed_mm_corpus import expected_ranks, fixture, manifest

SORA, PUBLISHED = "mindspeed-mm-sora", "diffusers"


@dataclass(frozen=True, slots=True)
class To:
    """A case whose source is a fixture: the cut that is asked for."""

    fixture: str
    tp_size: int = 1
    pp_layers: Any = None
    remove_pos_emb: bool = False

    @property
    def cut(self) -> dict[str, Any]:
        return {"tp_size": self.tp_size} | ({"pp_layers": self.pp_layers} if self.pp_layers else {})


TO_RANKS = {
    "wan-h2m": To("wan_t2v"),
    "wan-h2m-i2v": To("wan_i2v"),
    "wan-h2m-pp2": To("wan_t2v", pp_layers=[1, 3]),
    "wan-h2m-vpp2": To("wan_t2v", pp_layers=[[1, 1], [1, 1]]),
    "wan-lora-h2m": To("wan_lora"),
    "vace-h2m-diffusers": To("vace_diffusers"),
    "vace-h2m-civitai": To("vace_civitai"),
    "cog-src": To("cogvideo_sat"),
    "cog-src-tp2": To("cogvideo_sat", tp_size=2, remove_pos_emb=True),
    "osp13-h2m-tp2-pp2": To("opensoraplan_v1_3", tp_size=2, pp_layers=[16, 16]),
    "hy-src-tp1": To("hunyuanvideo"),
    "step-h2m-tp2-pp2": To("stepvideo", tp_size=2, pp_layers=[24, 24]),
    "lumina-h2m": To("lumina"),
    "bagel-h2m": To("bagel"),
    "osora-h2m": To("opensora"),
}
# case: (the layout of its source, the cut that is asked for)
RESPLIT: dict[str, tuple[str, dict[str, Any]]] = {
    "wan-rs-1-vpp": ("wan-h2m", {"pp_layers": [[1, 1], [1, 1]]}),
    "wan-rs-vpp-pp": ("wan-h2m-vpp2", {"pp_layers": [2, 2]}),
    "cog-rs-tp1-tp2": ("layout-18", {"tp_size": 2}),
    "osp15-rs-tp2-tp1": ("layout-19", {}),
    "hy-rs-tp2-tp1": ("layout-20", {}),
    "step-rs-tp1-tp4": ("layout-21", {"tp_size": 4}),
}
# case: (the layout of its source, the fixture whose configuration goes along, the form)
TO_PUBLISHED = {
    "wan-m2h": ("wan-h2m", "wan_t2v", "hf_diffusers"),
    "wan-m2h-vpp2": ("wan-h2m-vpp2", "wan_t2v", "hf_diffusers"),
    "wan-m2h-iter": ("wan-h2m-i2v", "wan_i2v", "hf_diffusers"),
    "vace-m2h-diffusers": ("vace-h2m-diffusers", "vace_diffusers", "hf_diffusers"),
    "vace-m2h-civitai": ("vace-h2m-civitai", "vace_civitai", "original"),
    "lumina-m2h": ("lumina-h2m", "lumina", "original"),
}
# fixture: the form that it is published in; how it is cut on the way
FORMS = {
    "wan_t2v": "hf_diffusers",
    "wan_i2v": "hf_diffusers",
    "wan_lora": "original",
    "vace_diffusers": "hf_diffusers",
    "vace_civitai": "original",
    "cogvideo_hf": "hf_diffusers",
    "opensoraplan_v1_3": "original",
    "hunyuanvideo": "original",
    "stepvideo": "original",
    "lumina": "original",
    "bagel": "original",
    "opensora": "original",
}
CUTS: dict[str, dict[str, Any]] = {
    "wan_lora": {"pp_layers": [1, 3]},
    "cogvideo_hf": {"tp_size": 2, "pp_layers": [20, 0, 22]},
    "opensoraplan_v1_3": {"tp_size": 4, "pp_layers": [[10, 6], [0, 16]]},
    "hunyuanvideo": {"tp_size": 2},
    "stepvideo": {"tp_size": 4, "pp_layers": [0, 48]},
}
# What MindSpeed-MM's training cannot load, or what loses layers: (fixture, cut, what the error says)
REFUSED = {
    "wan-h2m-pp-sum": (To("wan_t2v", pp_layers=[1, 2]), "pp_layers has 3 layers; the model has 4"),
    "wan with tp": (To("wan_t2v", tp_size=2), "does not cut the matrices of wan"),
    "cog-h2m-vpp": (To("cogvideo_hf", pp_layers=[[10, 10], [10, 12]]), "has no virtual stages for cogvideo"),
    "ranks that divide no axis": (To("stepvideo", tp_size=5), "which tp_size 5 does not divide"),
    "hunyuan with stages": (To("hunyuanvideo", pp_layers=[30, 30]), "has no pipeline stages for hunyuan-video"),
    "vace with stages": (To("vace_diffusers", pp_layers=[2, 3]), "has no pipeline stages for vace"),
}


def place_of(folder: Path, name: str) -> str:
    """What is given as the source: the directory, or the file where that holds no more."""
    made = fixture(name)
    if made.get("bin"):
        return str(folder / made["bin"])
    return str(folder / f"{made['file_prefix']}.safetensors") if made.get("shards", 1) == 1 else str(folder)


def to_ranks(path: str, target: Path, **cut: Any) -> None:
    convert(job({"format": PUBLISHED, "path": path}, {"format": SORA, "path": str(target), **cut}), engine="inline")


@pytest.mark.parametrize("case", TO_RANKS)
def test_a_published_model_becomes_the_rank_files_that_the_source_tool_writes(case: str, tmp_path: Path) -> None:
    asked = TO_RANKS[case]
    folder = write_published(asked.fixture, 1, tmp_path / "in")
    source = {"format": PUBLISHED, "path": place_of(folder, asked.fixture), "remove_pos_emb": asked.remove_pos_emb}
    convert(job(source, {"format": SORA, "path": str(tmp_path / "out"), **asked.cut}), engine="inline")
    ranks, others = read_tops(tmp_path / "out")
    assert ranks == expected_ranks(manifest(case))
    extra = manifest(case).get("extra", {})
    assert others == {rank: set(extra.get(rank, {})) for rank in ranks}
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "release"


def test_what_diffusers_keeps_in_two_norms_is_in_trainings_order(tmp_path: Path) -> None:
    """The source tool writes a list of one list as a chunk with a number, which training would not look for; the tensors are the same."""
    folder = write_published("cogvideo_hf", 1, tmp_path / "in")
    to_ranks(str(folder), tmp_path / "out", pp_layers=[[20, 22]])
    wanted = expected_ranks(manifest("cog-h2m-vpp1row"))
    assert read_tops(tmp_path / "out")[0] == {rank: {"model": models["model0"]} for rank, models in wanted.items()}


@pytest.mark.parametrize("case", RESPLIT)
def test_rank_files_are_cut_again_as_the_source_tool_cuts_them(case: str, tmp_path: Path) -> None:
    layout, cut = RESPLIT[case]
    source = write_ranks(layout, 3, tmp_path / "in")
    convert(job({"format": SORA, "path": str(source)}, {"format": SORA, "path": str(tmp_path / "out"), **cut}), engine="inline")
    assert read_tops(tmp_path / "out")[0] == expected_ranks(manifest(case))


@pytest.mark.parametrize("case", TO_PUBLISHED)
def test_rank_files_become_what_the_source_tool_exports_with_an_index_that_is_right(case: str, tmp_path: Path) -> None:
    layout, name, form = TO_PUBLISHED[case]
    config = write_published(name, 1, tmp_path / "published")
    source = write_ranks(layout, 3, tmp_path / "in", "iter_0000012" if case.endswith("iter") else "release")
    target = {"format": PUBLISHED, "path": str(tmp_path / "out"), "form": form}
    convert(job({"format": SORA, "path": str(source), "config_dir": str(config)}, target), engine="inline")
    assert read_published(tmp_path / "out") == expected_tensors(case)
    assert (tmp_path / "out" / "config.json").read_bytes() == (config / "config.json").read_bytes()


@pytest.mark.parametrize("name", FORMS)
def test_there_and_back_is_the_same_model(name: str, tmp_path: Path) -> None:
    folder = write_published(name, 5, tmp_path / "in")
    to_ranks(place_of(folder, name), tmp_path / "ranks", **CUTS.get(name, {}))
    target = {"format": PUBLISHED, "path": str(tmp_path / "out"), "form": FORMS[name]}
    convert(job({"format": SORA, "path": str(tmp_path / "ranks")}, target), engine="inline")
    assert read_published(tmp_path / "out") == published_tensors(name, 5)


def test_the_authors_matrices_of_time_are_those_of_diffusers_in_another_order(tmp_path: Path) -> None:
    """Rank files of a model as `sat` saved it, exported for diffusers, and cut once more, are the same rank files."""
    folder = write_published("cogvideo_sat", 5, tmp_path / "in")
    source = {"format": PUBLISHED, "path": place_of(folder, "cogvideo_sat"), "remove_pos_emb": True}
    convert(job(source, {"format": SORA, "path": str(tmp_path / "one")}), engine="inline")
    target = {"format": PUBLISHED, "path": str(tmp_path / "hf"), "form": "hf_diffusers"}
    convert(job({"format": SORA, "path": str(tmp_path / "one")}, target), engine="inline")
    to_ranks(str(tmp_path / "hf"), tmp_path / "two")
    assert read_tops(tmp_path / "two") == read_tops(tmp_path / "one")


@pytest.mark.parametrize("cut", [[2, 2], [0, 4], [4, 0, 0], [1, 0, 3], [[1, 0], [0, 3]], [[0, 0], [2, 2]]])
def test_no_cut_into_stages_loses_a_tensor(cut: Any, tmp_path: Path) -> None:
    """The source tool cannot read its own plain stages, renumbers layers behind an empty one, and loses an image embedder's norms."""
    folder = write_published("wan_i2v", 5, tmp_path / "in")
    to_ranks(str(folder), tmp_path / "ranks", pp_layers=cut)
    target = {"format": PUBLISHED, "path": str(tmp_path / "out"), "form": "hf_diffusers"}
    convert(job({"format": SORA, "path": str(tmp_path / "ranks"), "pp_layers": cut}, target), engine="inline")
    assert read_published(tmp_path / "out") == published_tensors("wan_i2v", 5)


@pytest.mark.parametrize("case", REFUSED)
def test_what_training_cannot_load_is_refused(case: str, tmp_path: Path) -> None:
    asked, said = REFUSED[case]
    folder = write_published(asked.fixture, 1, tmp_path / "in")
    with pytest.raises(ConvsvcError, match=said):
        to_ranks(place_of(folder, asked.fixture), tmp_path / "out", **asked.cut)
    assert not (tmp_path / "out").exists()


def as_version_1_2(folder: Path, **cut: Any) -> None:
    source = {"format": PUBLISHED, "path": place_of(folder, "opensoraplan_v1_3")}
    target = {"format": SORA, "path": str(folder.parent / "ranks"), **cut}
    convert({"model_type": "opensora-plan-v1.2", "source": source, "target": target}, engine="inline")


def test_version_1_2_of_open_sora_plan_is_cut_as_1_3_under_names_of_its_own(tmp_path: Path) -> None:
    """The source tool's tables of both are the same but for what the blocks are called."""
    folder = write_published("opensoraplan_v1_3", 5, tmp_path / "in")
    to_ranks(place_of(folder, "opensoraplan_v1_3"), tmp_path / "other", tp_size=2)
    as_version_1_2(folder, tp_size=2)
    ours, others = read_tops(tmp_path / "ranks")[0], read_tops(tmp_path / "other")[0]
    renamed = {
        rank: {key: {name.replace("videodit_sparse_blocks.", "videodit_blocks."): each for name, each in held.items()}
               for key, held in models.items()}
        for rank, models in others.items()
    }  # fmt: skip
    assert ours == renamed
    target = {"format": PUBLISHED, "path": str(tmp_path / "out")}
    convert(job({"format": SORA, "path": str(tmp_path / "ranks")}, target), engine="inline")
    assert read_published(tmp_path / "out") == published_tensors("opensoraplan_v1_3", 5)


def test_version_1_2_of_open_sora_plan_has_no_stages(tmp_path: Path) -> None:
    folder = write_published("opensoraplan_v1_3", 5, tmp_path / "in")
    with pytest.raises(ConvsvcError, match=r"has no pipeline stages for opensora-plan-v1\.2"):
        as_version_1_2(folder, pp_layers=[16, 16])
