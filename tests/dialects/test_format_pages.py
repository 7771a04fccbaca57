"""The page of the formats says what a job may say."""

from __future__ import annotations

from pathlib import Path

from convsvc.dialects.format_pages import page
from convsvc.spec.formats import sides

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_committed_page_is_what_the_formats_say() -> None:
    assert PAGE.read_text() == page(), "run: python -m convsvc.dialects.format_pages docs/formats.md"


def test_every_field_of_every_format_is_in_it() -> None:
    text = page()
    for side in ("SOURCE", "TARGET"):
        for name, kind in sides(side).items():
            part = text.partition(f"## {name}\n")[2].partition("\n## ")[0].partition(f"### As a {side.lower()}")[2]
            assert [field for field in kind.model_fields if f"\n| `{field}` |" not in part.partition("\n### ")[0]] == []


def test_every_field_but_format_and_path_says_what_it_means() -> None:
    kinds = [(name, kind) for side in ("SOURCE", "TARGET") for name, kind in sides(side).items()]
    silent = [(name, field) for name, kind in kinds for field, about in kind.model_fields.items() if not about.description]
    assert [each for each in silent if each[1] not in ("format", "path")] == []


def test_a_bar_in_a_description_does_not_end_the_cell() -> None:
    row = next(line for line in page().splitlines() if line.startswith("| `pipeline_model_parallel_layout`"))
    assert row.replace("\\|", "").count("|") == 5
