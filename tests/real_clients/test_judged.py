"""Which client judges which family is one table (`dialects/judged.py`), and this walk over the tests of real clients holds it to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convsvc.dialects.judged import JUDGED
from convsvc.families import FAMILIES
from tests.real_clients import (
    test_added_families,
    test_dcp_keys,
    test_diffusers,
    test_fsdp_package,
    test_hugging_face_only,
    test_megatron,
    test_megatron_dist,
    test_megatron_fsdp,
    test_megatron_fsdp_training,
    test_megatron_training,
    test_peft,
    test_peft_sources,
    test_vision_models,
    test_wrapped_text,
)
from tests.real_clients.test_transformers_coverage import ONE_BY_ONE
from tests.real_clients.tiny_models import MODELS, transformers

pytestmark = pytest.mark.real_client
HERE = Path(__file__).parent


def of_vision(tiny: test_vision_models.Tiny) -> str:
    """The family of a configuration class, and where several have its model_type, that of its text's."""
    kind, text = getattr(transformers(), tiny.config).model_type, tiny.text.get("model_type")
    found = [family for family in FAMILIES.values() if kind in family.model_types and family.towers]
    if len(found) > 1:
        found = [family for family in found if family.text and text in FAMILIES[family.text].model_types]
    (family,) = found
    return family.name


def by_file() -> dict[str, tuple[str, set[str]]]:
    """By test file: the client, and the families that it judges there."""
    vision = {of_vision(tiny) for tiny in (*test_vision_models.MODELS, *test_vision_models.OTHERS)}
    return {
        "test_transformers.py": ("transformers", {tiny.family for tiny in MODELS}),
        "test_added_families.py": ("transformers", {tiny.family for tiny in test_added_families.MODELS}),
        "test_hugging_face_only.py": ("transformers", {tiny.family for tiny in test_hugging_face_only.MODELS}),
        "test_wrapped_text.py": ("transformers", set(test_wrapped_text.MODELS)),
        "test_transformers_published_forms.py": ("transformers", ONE_BY_ONE),
        "test_vision_models.py": ("transformers", vision),
        "test_megatron.py": ("megatron.core", {trial.tiny.family for trial in test_megatron.TRIALS}),
        "test_megatron_dist.py": (
            "megatron.core",
            {trial.tiny.family for trial in (*test_megatron_dist.TRIALS, *test_megatron_dist.RANKS)},
        ),
        "test_megatron_training.py": ("megatron.core", {trial.tiny.family for trial in test_megatron_training.TRIALS}),
        "test_megatron_fsdp.py": ("megatron-fsdp", {trial.tiny.family for trial in test_megatron_fsdp.TRIALS}),
        "test_megatron_fsdp_training.py": ("megatron-fsdp", {trial.tiny.family for trial in test_megatron_fsdp_training.TRIALS}),
        "test_fsdp_package.py": ("megatron-fsdp", {test_fsdp_package.TINY.family}),
        "test_dcp.py": ("torch DCP", {"llama2"}),
        "test_dcp_keys.py": ("torch DCP", {test_dcp_keys.TINY.family}),
        "test_peft.py": ("peft", {tiny.family for tiny in test_peft.MODELS.values()}),
        "test_peft_sources.py": ("peft", {tiny.family for tiny in test_peft_sources.MODELS.values()}),
        "test_diffusers.py": ("diffusers", set(test_diffusers.FAMILIES.values())),
    }


NO_FAMILY_MORE = {
    "test_expert_forms.py": "other forms of families that the tables above have",
    "test_other_heads.py": "other heads of families that the tables above have",
    "test_transformers_coverage.py": "whom transformers has no class for",
    "test_quantised_weights.py": "loaders of weights, whatever model they are of",
    "test_quantised_families.py": "other forms of families that the tables above have",
    "test_megatron_saves.py": "what began in training, of families that the tables above have",
    "test_judged.py": "this one",
}


def test_every_test_of_a_real_client_is_walked() -> None:
    assert {file.name for file in HERE.glob("test_*.py")} == {*by_file(), *NO_FAMILY_MORE}


def test_the_table_says_of_every_client_what_its_tests_judge() -> None:
    seen: dict[str, set[str]] = {}
    for client, families in by_file().values():
        seen.setdefault(client, set()).update(families)
    assert {client: sorted(families) for client, families in JUDGED.items()} == {client: sorted(seen[client]) for client in seen}


def test_only_known_families_are_judged() -> None:
    assert frozenset().union(*JUDGED.values()) <= set(FAMILIES)
