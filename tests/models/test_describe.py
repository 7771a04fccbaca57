"""Every family can be said in the words of its configuration: what is built from the words is what they were taken from."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.dialects.huggingface.config import prove
from convsvc.dialects.huggingface.derived_config import derive
from convsvc.dialects.huggingface.stored_names import stored_names
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import Settings
from convsvc.families import FAMILIES, Facts, Wanted
from convsvc.models.describe import dense_words, describe, reduce_lists
from convsvc.models.model import Model
from tests.families import hybrid_models, latent_models, tiny_configs
from tests.families.text_families import RANK_FILE_FAMILIES
from tests.roundtrip import any_family

OTHERS = latent_models.CONFIGS | hybrid_models.CONFIGS
WRITTEN_BY_TRANSFORMERS = {"deepseek4_base": hybrid_models.CONFIGS["deepseek4"]}


def config_of(family: str) -> dict[str, Any]:
    """A small configuration: a table's, or the first choice of those that are drawn."""
    if family in tiny_configs.DIFFERENCES:
        return tiny_configs.config(family)
    if family in OTHERS | WRITTEN_BY_TRANSFORMERS:
        return (OTHERS | WRITTEN_BY_TRANSFORMERS)[family]
    chosen = {
        name: value[0] if isinstance(value, tuple) else value for name, value in (any_family.CONFIGS | any_family.SIBLINGS)[family].items()
    }
    heads = chosen["num_key_value_heads"] * chosen.pop("query", 1)
    return chosen | {"num_hidden_layers": 4, "num_attention_heads": heads}


def model_of(family: str, **changes: Any) -> Model:
    facts = Facts({**config_of(family), **changes}, "config.json")
    return FAMILIES[family].build(facts, Wanted(num_mtp=facts.first_number(("num_nextn_predict_layers",))))


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: stored.shape for name, stored in stored_names(model).items() if stored.is_required}


@pytest.mark.parametrize("family", RANK_FILE_FAMILIES)
def test_the_model_that_a_familys_words_describe_is_the_one_they_were_taken_from(family: str) -> None:
    model, config = model_of(family), config_of(family)
    own = {name: config[name] for name in FAMILIES[family].fields if name in config}
    again = FAMILIES[family].build(Facts({**own, **describe(model)}, "words"))
    assert [(scope.prefix, scope.rows, scope.sizes, scope.dense) for scope in again.scopes] == [
        (scope.prefix, scope.rows, scope.sizes, scope.dense) for scope in model.scopes
    ]


@pytest.mark.parametrize("family", RANK_FILE_FAMILIES)
def test_a_configuration_follows_from_saved_args_and_describes_the_weights(family: str) -> None:
    config = config_of(family)
    model = FAMILIES[family].build(Facts(config, "config.json"))
    args = vars(compose_args(model, Settings(Parallel(), model.sizes["vocab"]), Facts(config, "config.json")))
    facts = Facts(args, "args")
    again = FAMILIES[family].build(facts, Wanted(num_mtp=model.num_mtp))
    derived, _ = derive(again, facts, {"BF16": 1})
    prove(derived, model, shapes(model), "derived")
    assert derived["torch_dtype"] == "bfloat16"


def test_dense_layers_are_said_in_the_fields_that_a_configuration_has() -> None:
    dense = [True, False, True]
    assert dense_words(dense, {"mlp_only_layers": [], "decoder_sparse_step": 1}) == {"decoder_sparse_step": 1, "mlp_only_layers": [0, 2]}
    assert dense_words(dense, {"moe_layer_freq": [1, 1, 1, 1]}) == {"moe_layer_freq": [0, 1, 0]}
    assert dense_words(dense, {"mlp_layer_types": []}) == {"mlp_layer_types": ["dense", "sparse", "dense"]}
    assert dense_words([True, False], {"first_k_dense_replace": 3, "moe_layer_freq": 1}) == {"first_k_dense_replace": 1}


def test_a_field_that_transformers_reads_is_written_though_another_is_there() -> None:
    assert dense_words([True, False], {"first_k_dense_replace": 3, "mlp_layer_types": None}) == {
        "first_k_dense_replace": 1, "mlp_layer_types": ["dense", "sparse"],
    }  # fmt: skip


def test_lists_of_layers_keep_the_entries_of_the_layers_that_stay_and_of_mtp_layers() -> None:
    values = {
        "layer_types": ["a", "b", "c", "d"],
        "compress_ratios": [1, 2, 3, 4, 9],
        "mlp_only_layers": [0, 3],
        "eos_token_id": [1, 2, 3, 4],
    }
    assert reduce_lists(values, (0, 3), 4) == {"layer_types": ["a", "d"], "compress_ratios": [1, 4, 9], "mlp_only_layers": [0, 1]}
    assert reduce_lists(values, (0, 1, 2, 3), 4) == {}
