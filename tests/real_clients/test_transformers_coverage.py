"""Which families transformers cannot yet judge, and why: the list is exact, so that a newer transformers shows up here."""

from __future__ import annotations

import pytest

from convsvc.families import FAMILIES
from tests.families.text_families import TEXT_FAMILIES
from tests.real_clients import test_added_families, test_hugging_face_only, test_wrapped_text
from tests.real_clients.tiny_models import MODELS, transformers

pytestmark = pytest.mark.real_client

NO_CLASS = {"bailing_mini": ("bailing_moe", "bailing_moe_v2"), "plm": ("plm",)} | {
    family: FAMILIES[family].model_types
    for family in (
        "baichuan",
        "chatglm",
        "deepseek",
        "exaone",
        "molmo",
        "orion",
        "yi",
        "internlm",
        "internlm2",
        "mimo",
        "minicpm",
        "pangu-embedded",
        "qwen",
        "telechat2",
    )
}
"""Families without a class in transformers: the model_type that one would have."""
ONE_BY_ONE = {"longcat", "deepseek4", "deepseek4_base"}
"""Compared in test_transformers_published_forms.py; deepseek4_base is deepseek4 with MTP copies, which transformers leaves out."""
NO_TEXT_CLASS = {"mistral4"}
"""transformers has a configuration of the text alone, and no model with an output layer for it."""
OTHER_CLASS = {"kimi-k3": "its model_type is Kimi-Linear's, and the class computes that", "phi4-mm": "phi3.5's tables under another name"}
"""transformers' class of the same name is another model's, or none of the text alone."""


def test_every_family_is_compared_or_named_here() -> None:
    compared = {tiny.family for tiny in (*MODELS, *test_added_families.MODELS, *test_hugging_face_only.MODELS)}
    compared |= set(test_wrapped_text.MODELS)
    assert set(TEXT_FAMILIES) - compared == set(NO_CLASS) | ONE_BY_ONE | NO_TEXT_CLASS | set(OTHER_CLASS)


@pytest.mark.parametrize("family", NO_CLASS)
def test_transformers_has_no_class_for_the_family(family: str) -> None:
    known = transformers().CONFIG_MAPPING
    assert not [name for name in NO_CLASS[family] if name in known]


@pytest.mark.parametrize("family", NO_TEXT_CLASS)
def test_transformers_has_no_model_with_an_output_layer_for_the_text_alone(family: str) -> None:
    library = transformers()
    for name in FAMILIES[family].model_types:
        assert library.CONFIG_MAPPING[name] not in library.MODEL_FOR_CAUSAL_LM_MAPPING
