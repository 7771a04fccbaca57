"""Names that begin otherwise in a checkpoint: each comes back as it was, or the mapping is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsvc.errors import JobError
from convsvc.models.spelling import Spelling

PARTS = st.sampled_from(["a.", "b.", "a.b.", "thinker.", "model.", ""])
NAMES = st.lists(st.sampled_from(["a", "b", "thinker", "model", "w"]), min_size=1, max_size=4).map(".".join)


def test_of_several_beginnings_the_longest_counts() -> None:
    spelling = Spelling({"": "x.", "model.": "y.", "model.visual.": "z."})
    assert [spelling.stored(name) for name in ("w", "model.w", "model.visual.w")] == ["x.w", "y.w", "z.w"]
    assert [spelling.named(name) for name in ("x.w", "y.w", "z.w")] == ["w", "model.w", "model.visual.w"]


def test_a_beginning_is_no_part_from_within() -> None:
    assert Spelling({"model.": "vlm."}).stored("language_model.model.w") == "language_model.model.w"


def test_what_is_taken_away_needs_the_others_to_be_named() -> None:
    names = ["thinker.w", "talker.w"]
    with pytest.raises(JobError) as error:
        Spelling({"thinker.": ""}).check(names, "target.names")
    assert "talker.w becomes talker.w, and that is read as thinker.talker.w" in error.value.facts
    assert error.value.do == 'say also what begins so and stays as it is, for example "talker.": "talker."'
    Spelling({"thinker.": "", "talker.": "talker."}).check(names, "target.names")


@given(st.dictionaries(PARTS, PARTS, max_size=4), st.lists(NAMES, unique=True, max_size=6))
def test_what_is_not_refused_comes_back(beginnings: dict[str, str], names: list[str]) -> None:
    spelling = Spelling(beginnings)
    try:
        spelling.check(names, "names")
    except JobError:
        return
    stored = [spelling.stored(name) for name in names]
    assert len(set(stored)) == len(names)
    assert [spelling.named(name) for name in stored] == names


def test_an_adapters_name_stands_in_lora_factors_alone() -> None:
    spelling = Spelling({}, "default")
    for name in ("x.lora_A.weight", "x.lora_B.weight"):
        assert spelling.stored(name) == name.replace(".weight", ".default.weight")
        assert spelling.named(spelling.stored(name)) == name
    assert spelling.stored("x.weight") == spelling.named("x.weight") == "x.weight"
    with pytest.raises(JobError):
        spelling.check(["x.lora_A.default.weight"], "names")
