"""Mixtral and GLM-4: what they are called, and what a layer of theirs has."""

from __future__ import annotations

import pytest

from convsvc.errors import SourceError
from convsvc.families import FAMILIES, Facts, find_family

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 64}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "intermediate_size": 48, "num_local_experts": 8, **SIZES}
GLM4 = {"architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "intermediate_size": 48, "head_dim": 4, **SIZES}


@pytest.mark.parametrize(("config", "name"), [(MIXTRAL, "mixtral"), (GLM4, "glm4")])
def test_a_configuration_shows_the_family(config: dict[str, object], name: str) -> None:
    assert find_family(None, Facts(config, "config.json")).name == name


def test_mixtrals_intermediate_size_is_its_experts_width() -> None:
    model = FAMILIES["mixtral"].build(Facts(MIXTRAL, "config.json"))
    assert (model.sizes["expert"], model.sizes["expert_ffn"]) == (8, 48)
    assert "ffn" not in model.sizes
    assert not any(layer.dense for layer in model.layers())


def test_args_saved_by_training_give_the_same_mixtral() -> None:
    args = {
        "num_layers": 2, "hidden_size": 32, "num_attention_heads": 8, "group_query_attention": True, "num_query_groups": 2,
        "vocab_size": 64, "num_experts": 8, "ffn_hidden_size": 48, "moe_ffn_hidden_size": 48,
    }  # fmt: skip
    family = FAMILIES["mixtral"]
    assert family.build(Facts(args, "args")).sizes == family.build(Facts(MIXTRAL, "config.json")).sizes


def test_a_mixtral_without_experts_is_refused() -> None:
    with pytest.raises(SourceError, match="num_experts"):
        FAMILIES["mixtral"].build(Facts({**MIXTRAL, "num_local_experts": None}, "config.json"))


@pytest.mark.parametrize("biased", [False, True])
def test_glm4_has_biases_where_the_configuration_says_so_and_four_norms(biased: bool) -> None:
    (layer, _) = FAMILIES["glm4"].build(Facts({**GLM4, "attention_bias": biased}, "config.json")).layers()
    stored = {row.stored for row in layer.rows}
    assert ("self_attn.q_proj.bias" in stored) is biased
    assert "self_attn.o_proj.bias" not in stored
    assert len([name for name in stored if name.endswith("layernorm.weight")]) == 4
