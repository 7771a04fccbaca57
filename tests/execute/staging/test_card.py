"""The model card of a conversion: what it says, where it lies, and that nothing in it is taken for Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convsvc.conversion import convert
from convsvc.errors import JobError, TargetExists
from convsvc.execute.staging.card import code, compose_card, text
from tests.tiny_checkpoints import write_llama


def job(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    sides = {"source": {"format": "huggingface", "path": str(source)}, "target": {"format": "huggingface", "path": str(target)}}
    return {**sides, "options": options}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = write_llama(tmp_path / "hf", layers=1)
    (made / "README.md").write_text("# The model's own card")
    return made


def test_a_card_says_what_was_made_of_what_by_which_version_with_digests_and_how_it_was_verified(source: Path, tmp_path: Path) -> None:
    convert(job(source, tmp_path / "out", card="both", dtype="fp32"), engine="inline")
    card = (tmp_path / "out" / "conversion-report.md").read_text()
    report = json.loads((tmp_path / "out" / "conversion-report.json").read_text())
    assert f"convsvc `{report['convsvc']}`" in card
    assert f"| from | `huggingface`, `{source}` |" in card
    assert "| dtype | `fp32` |" in card
    assert "`digest`: every byte of every tensor was read again" in card
    for file in (*report["target"]["files"], *report["target"]["side_files"]):
        assert f"| `{file['path']}` |" in card
        assert f"`{file['crc32']}`" in card
    assert report["source"]["files"][0]["digest"] in card
    for kind, notes in report["notes"].items():
        assert notes, kind
        assert text(notes[0]) in card


def test_the_models_own_card_stays_and_there_is_none_where_none_was_asked_for(source: Path, tmp_path: Path) -> None:
    convert(job(source, tmp_path / "with", card="both"), engine="inline")
    convert(job(source, tmp_path / "without", card="none"), engine="inline")
    with_it, without = ({path.name for path in (tmp_path / name).iterdir()} for name in ("with", "without"))
    assert with_it - without == {"conversion-report.md"}
    assert [path.name for path in tmp_path.glob("*.md")] == ["with.conversion-report.md"]
    own = [(tmp_path / name / "README.md") for name in ("with", "without")]
    assert all(not path.exists() or path.read_text() == "# The model's own card" for path in own)


def test_a_card_is_listed_as_made_so_that_its_target_is_overwritten_and_known_again(source: Path, tmp_path: Path) -> None:
    convert(job(source, tmp_path / "out", card="both"), engine="inline")
    assert "conversion-report.md" in json.loads((tmp_path / "out" / ".convsvc-made.json").read_text())["files"]
    first = (tmp_path / "out" / "conversion-report.md").read_bytes()
    assert convert(job(source, tmp_path / "out", card="both", on_exists="reuse"), engine="inline").already_done
    convert(job(source, tmp_path / "out", card="both", on_exists="overwrite"), engine="inline")
    assert (tmp_path / "out" / "conversion-report.md").read_bytes() == first


def test_without_a_word_it_lies_beside_the_target_and_a_later_target_without_one_leaves_none(source: Path, tmp_path: Path) -> None:
    convert(job(source, tmp_path / "out"), engine="inline")
    card = tmp_path / "out.conversion-report.md"
    assert card.read_text().startswith("<!-- conversion report -->\n\n# Conversion\n")
    assert not (tmp_path / "out" / "conversion-report.md").exists()
    convert(job(source, tmp_path / "out", card="none", on_exists="overwrite"), engine="inline")
    assert not card.exists()


def test_a_page_of_that_name_which_is_no_card_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.conversion-report.md"
    page.write_text("# Mine")
    with pytest.raises(TargetExists, match="is no report of a conversion"):
        convert(job(source, tmp_path / "out"), engine="inline")
    assert page.read_text() == "# Mine"


def test_the_card_of_an_earlier_conversion_does_not_go_along(source: Path, tmp_path: Path) -> None:
    convert(job(source, tmp_path / "out", card="both"), engine="inline")
    convert(job(tmp_path / "out", tmp_path / "again"), engine="inline")
    assert not (tmp_path / "again" / "conversion-report.md").exists()


def test_a_format_without_cards_has_none_and_refuses_one(source: Path, tmp_path: Path) -> None:
    wanted = job(source, tmp_path / "out", card="both")
    wanted["target"]["format"] = "mindspeed-llm"
    with pytest.raises(JobError, match="has no model card"):
        convert(wanted, engine="inline")
    convert({**wanted, "options": {}}, engine="inline")
    assert not list(tmp_path.glob("*.md"))


def test_what_names_and_notes_hold_is_shown_and_never_markup() -> None:
    hostile = "a|b`c\n# head <script>alert(1)</script> [x](javascript:1) \udcff"
    report = {
        "convsvc": "1",
        "family": hostile,
        "plan": "p",
        "job": {},
        "notes": {"filled": [hostile]},
        "verified": {"mode": "digest", "what": ""},
        "source": {"format": "huggingface", "path": hostile, "files": [{"path": hostile, "size_bytes": 1}]},
        "target": {"format": "huggingface", "files": [{"path": hostile, "size_bytes": 1, "crc32": None, "tensors": 1}], "side_files": []},
    }
    card = compose_card(report).decode()
    without_code = "".join(card.replace("\\`", "").split("`")[::2])
    assert "<script>" not in without_code
    assert "[x](" not in without_code
    assert sum(line.startswith("#") for line in card.splitlines()) == 5
    rows = [line for line in card.splitlines() if line.startswith("| `a")]
    assert all(line.count(" | ") == 3 for line in rows)
    assert len(rows) == 2


def test_a_list_of_thousands_of_files_ends_somewhere() -> None:
    files = [{"path": f"{n}.safetensors", "size_bytes": 1, "crc32": "0", "tensors": 1} for n in range(5000)]
    side = {"format": "huggingface", "path": "/p", "files": files, "side_files": []}
    report = {"convsvc": "1", "family": "llama2", "plan": "p", "job": {}, "notes": {}, "verified": {"mode": "none", "what": ""}}
    card = compose_card({**report, "source": side, "target": side}).decode()
    assert "and 4800 more, in the report" in card
    assert len(card) < 100_000


def test_code_is_never_empty() -> None:
    assert code("") == "` `"
