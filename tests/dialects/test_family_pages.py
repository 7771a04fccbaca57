"""The pages of the families say what the declarations say."""

from __future__ import annotations

from pathlib import Path

import pytest

from convsvc.dialects.family_example import example_model
from convsvc.dialects.family_pages import AXES, page, pages, tabled
from convsvc.dialects.mindspeed_mm.tables import BY_FAMILY
from convsvc.families import FAMILIES

FOLDER = Path(__file__).parents[2] / "docs" / "families"
COMMAND = "run: python -m convsvc.dialects.family_pages docs/families"


def test_the_committed_pages_are_what_the_declarations_give() -> None:
    wanted = dict(pages(FOLDER))
    assert {path.name for path in wanted} == {path.name for path in FOLDER.glob("*.md")}, COMMAND
    assert [path.name for path, text in wanted.items() if path.read_text() != text] == [], COMMAND


@pytest.mark.parametrize("name", FAMILIES)
def test_a_page_names_every_tensor_of_hugging_face(name: str) -> None:
    text = page(FAMILIES[name])
    assert [row.stored for scope in example_model(FAMILIES[name]).scopes for row in scope.rows if f"{row.stored}`" not in text] == []


def test_a_fused_weight_stands_beside_each_of_its_parts() -> None:
    text = page(FAMILIES["llama2"])
    for part in ("q_proj.weight` | (group slot head_dim) hidden; slot 0:query", "k_proj.weight` | (group head_dim) hidden; slot query"):
        line = next(line for line in text.splitlines() if part in line)
        assert line.endswith("`decoder.layers.{layer}.self_attention.linear_qkv.weight` | (group slot head_dim) hidden | tp: group |")


def test_parts_of_one_stored_tensor_are_numbered() -> None:
    text = page(FAMILIES["phi3.5"]).partition("\n## MindSpeed-LLM, Megatron mcore\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if "qkv_proj.weight" in line]
    assert [line.split(" | ")[1].partition(":")[0] for line in lines] == ["part 1 of 3", "part 2 of 3", "part 3 of 3"]


def test_what_a_flag_of_the_target_changes_is_shown() -> None:
    text = page(FAMILIES["qwen3-moe"])
    assert "## With moe_grouped_gemm" in text
    assert "## With mla_mm_split" not in text
    assert "expert hidden (glu expert_ffn), called hidden (expert glu expert_ffn)" in text


def test_every_framework_with_tables_has_its_part_or_says_why_not() -> None:
    titles = [target.title for target in tabled()]
    assert titles == ["Megatron-LM, torch_dist", "MindSpeed-LLM, Megatron mcore", "MindSpeed-MM", "MindSpore Transformers"]
    text = page(FAMILIES["gemma2"])
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {title}" for title in titles if title != "MindSpeed-MM"
    ] + ["## Axes"]
    assert text.partition("## MindSpore Transformers\n\n")[2].startswith("Refused: mindformers has no place for post_attn_norm.weight")


@pytest.mark.parametrize("name", BY_FAMILY)
def test_a_model_of_several_modules_has_its_names_in_mindspeed_mm(name: str) -> None:
    text = page(FAMILIES[name]).partition("\n## MindSpeed-MM\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line for line in lines if "`text_decoder.decoder.layers.{layer}.self_attention" in line]
    assert [line for line in lines if "`image_encoder." in line and "s.{layer}." in line]


def test_a_format_of_several_modules_is_not_spoken_of_where_there_is_one() -> None:
    assert "MindSpeed-MM" not in page(FAMILIES["qwen3"])
    assert "\n## MindSpeed-MM\n\nRefused: mindspeed-mm has no place for mistral3" in page(FAMILIES["mistral3"])


def test_notes_are_part_of_the_page() -> None:
    assert "\n- One reason.\n" in page(FAMILIES["llama2"], "Differences from MindSpeed-LLM's converter\n\n- One reason.\n")


def test_axes_that_are_explained_exist() -> None:
    used = {
        axis
        for family in FAMILIES.values()
        for scope in example_model(family).scopes
        for row in scope.rows
        for each in row.logicals
        for axis in each.axes
    }
    assert set(AXES) <= used
