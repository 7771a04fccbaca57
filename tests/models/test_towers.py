"""A model of several modules: its configuration flat and nested, its scopes, and who refuses it."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.dialects import target_of
from convsvc.errors import LayoutError, SourceError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.models.scope import DECODER
from convsvc.models.towers import flatten, spread
from convsvc.spec import parse_target

VISION = {"depth": 3, "embed_dim": 16, "mlp_ratio": 4, "num_heads": 4, "hidden_size": 32, "patch_size": 4}
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 2,
    "vocab_size": 96,
}  # fmt: skip
FLAT: dict[str, Any] = {"model_type": "qwen2_vl", "tie_word_embeddings": False, **TEXT, "vision_config": VISION}
NESTED: dict[str, Any] = {
    "model_type": "qwen2_vl", "tie_word_embeddings": False, "text_config": {"model_type": "qwen2_vl_text", **TEXT}, "vision_config": VISION,
}  # fmt: skip


def test_a_nested_configuration_is_the_same_model_as_a_flat_one() -> None:
    one, other = (find_family(None, Facts(values, "config.json")).build(Facts(values, "config.json")) for values in (FLAT, NESTED))
    assert one.scopes == other.scopes
    assert [module.name for module in one.modules] == ["image_encoder", DECODER]
    assert [module.num_layers for module in one.modules] == [3, 2]


def test_a_decoder_in_a_larger_model_is_the_text_familys() -> None:
    alone = FAMILIES["qwen25"].build(Facts({**TEXT, "tie_word_embeddings": False}, "config.json"))
    within = FAMILIES["qwen2-vl"].build(Facts(NESTED, "config.json"))
    assert tuple(scope for scope in within.scopes if scope.module == DECODER) == alone.scopes


def test_layers_of_a_model_are_its_decoders() -> None:
    model = FAMILIES["qwen2-vl"].build(Facts(NESTED, "config.json"))
    assert len(model.layers()) == model.num_layers == 2


def test_whether_embeddings_are_tied_the_outer_configuration_says() -> None:
    inner = {"text_config": {"tie_word_embeddings": True}}
    assert flatten(Facts({"tie_word_embeddings": False, **inner}, ""), (("text_config",),)).tied(True) is False
    assert flatten(Facts(inner, ""), (("text_config",),)).tied(False) is True


def test_steps_lead_inwards_one_after_the_other() -> None:
    steps = (("thinker_config",), ("llm_config", "text_config"))
    config = {"thinker_config": {"text_config": {"hidden_size": 8}, "audio_config": {"layers": 2}}, "x": 1}
    assert flatten(Facts(config, ""), steps).values == {"x": 1, "hidden_size": 8, "audio_config": {"layers": 2}}
    changed = spread(config, {"hidden_size": 4, "vocab_size": 5}, steps)
    assert changed == {"thinker_config": {"text_config": {"hidden_size": 4, "vocab_size": 5}, "audio_config": {"layers": 2}}, "x": 1}


def test_what_is_said_twice_is_changed_twice() -> None:
    config = {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}
    changed = spread(config, {"tie_word_embeddings": False}, (("text_config",),))
    assert changed == {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False}}


@pytest.mark.parametrize("stated", [{"tensor_parallel_size": 2}, {}])
@pytest.mark.parametrize("name", ["mindspeed-llm", "mindformers"])
def test_a_text_models_format_refuses_a_tower_by_its_name(name: str, stated: dict[str, int]) -> None:
    model = FAMILIES["qwen2-vl"].build(Facts(NESTED, "config.json"))
    target = target_of(name)
    with pytest.raises(LayoutError, match=f"{name} has no place for the image_encoder of a model"):
        target.layout(model, target.settings(parse_target({"format": name, "path": "/", **stated}), model))


@pytest.mark.parametrize(
    ("vision", "says"), [({**VISION, "num_heads": 3}, "width of 16 is not a multiple of 3"), ([], "must be an object")]
)
def test_a_tower_that_cannot_be_is_refused(vision: Any, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        FAMILIES["qwen2-vl"].build(Facts({**FLAT, "vision_config": vision}, "config.json"))
