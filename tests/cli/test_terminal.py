"""Names from files and from other users are text on a terminal, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsvc.cli.options import print_fields, print_table
from convsvc.cli.terminal import say, shown

EVIL = "x\n1k1FAKE  succeeded\x1b]0;pwned\x07\u202egnp"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_nothing_that_is_shown_is_obeyed(text: str) -> None:
    assert not any(character in shown(text) for character in "\x1b\x07\x08\r\x9b\u202e\u2066")
    assert len(shown(text, lines=False).splitlines()) <= 1 or "\u2028" in text or "\u2029" in text


def test_what_is_harmless_stays_as_it_is() -> None:
    assert shown("模型 λ\n\tßé 🙂") == "模型 λ\n\tßé 🙂"


def test_a_table_has_a_row_a_row_and_fields_obey_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["ID", "NAME"], [["1", EVIL]])
    assert len(capsys.readouterr().out.splitlines()) == 2
    print_fields({"name": EVIL})
    say(EVIL, err=True)
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
