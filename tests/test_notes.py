"""Notes have a kind, reach every door, and what is lost is an error unless the job allows it."""

import pytest

from convsvc.errors import PlanError
from convsvc.notes import Note, note_from_dict, sort_notes
from convsvc.plan.planner import check_loss
from convsvc.spec import Options


def test_what_matters_most_comes_first_and_nothing_is_said_twice() -> None:
    notes = [Note("advice", "a"), Note("lost", "b"), Note("advice", "a"), Note("ignored", "c")]
    assert sort_notes(notes) == (Note("lost", "b"), Note("ignored", "c"), Note("advice", "a"))


def test_a_note_comes_back_from_json() -> None:
    note = Note("filled", "2 rows of zeros")
    assert note_from_dict(note.as_dict()) == note


@pytest.mark.parametrize("data", [None, "lost: x", {"kind": "worse", "text": "x"}, {"kind": "lost"}])
def test_anything_else_is_no_note(data: object) -> None:
    with pytest.raises(ValueError, match="not a note"):
        note_from_dict(data)


def test_what_is_lost_is_an_error_unless_the_job_allows_it() -> None:
    notes = (Note("advice", "a"), Note("lost", "the head"))
    with pytest.raises(PlanError, match=r"1 part\(s\) of the source would be lost\n  the head") as caught:
        check_loss(notes, Options())
    assert "on_loss" in str(caught.value)
    assert check_loss(notes, Options(on_loss="note"))[0] == Note("lost", "the head")
