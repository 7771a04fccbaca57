"""What a configuration says in another type than it must is an error, and never a guess."""

from __future__ import annotations

import pytest

from convsvc.errors import SourceError
from convsvc.models.facts import Facts


@pytest.mark.parametrize("word", ["false", "False", "no", "0", "null", "true"])
def test_a_flag_in_quotes_is_refused_and_not_taken_for_true(word: str) -> None:
    with pytest.raises(SourceError, match=f"config.json: attention_bias is the text '{word}'; it must be true or false"):
        Facts({"attention_bias": word}, "config.json").flag("qkv_bias", "attention_bias")
    for name in ("tie_word_embeddings", "untie_embeddings_and_output_weights"):
        with pytest.raises(SourceError, match=f"{name} is the text '{word}'"):
            Facts({name: word}, "config.json").tied()


def test_a_text_that_names_a_kind_says_yes() -> None:
    assert Facts({"gating": "per-head"}, "config.json").flag("gating")


@pytest.mark.parametrize(
    ("said", "tied"), [({}, None), ({"untie_embeddings_and_output_weights": True}, False), ({"tie_embeddings": 1}, True)]
)
@pytest.mark.parametrize("default", [True, False])
def test_who_says_nothing_of_its_head_has_the_architectures(said: dict[str, object], tied: bool | None, default: bool) -> None:
    assert Facts(said, "config.json").tied(default) is (default if tied is None else tied)
