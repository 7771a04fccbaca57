"""Tables are whole: one for whoever's modules a layer is made of, and each framework on Megatron has its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.source import RankFiles
from convsvc.dialects.mcore.tables import Layers, Rows, Tables
from convsvc.dialects.mindspeed_llm.tables import TABLES
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Facts
from convsvc.models.model import Model

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "vocab_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "tie_word_embeddings": False,
}


def model() -> Model:
    return FAMILIES["llama2"].build(Facts(CONFIG, "config.json"))


def names_of(tables: Tables, transformer_engine: bool = False) -> list[str]:
    """The names in layer 0."""

    class Framework(RankFiles):
        name = tables.format

    framework = Framework()
    framework.tables = tables
    layout = framework.layout(model(), Settings(Parallel(), 32, transformer_engine=transformer_engine))
    names = [layout.kinds[entry.kind].name.partition("/")[2] for entry in layout.entries]
    return [name.removeprefix("decoder.layers.0.") for name in names if name.startswith("decoder.layers.0.")]


def logicals_of(rows: Rows) -> list[str]:
    return [each.name for candidate in rows for each in candidate.logicals]


@pytest.mark.parametrize("part", ["dense", "sparse", "experts", "grouped", "up", "split"])
def test_whoevers_modules_a_layer_is_made_of_it_holds_the_same_in_the_same_order(part: str) -> None:
    assert logicals_of(getattr(TABLES.te, part)) == logicals_of(getattr(TABLES.local, part))


@pytest.mark.parametrize("layers", [TABLES.local, TABLES.te])
def test_no_table_holds_a_part_of_a_logical_tensor_twice(layers: Layers) -> None:
    for kind in (layers.dense, layers.sparse):
        for up, experts in ((layers.up, layers.experts), (layers.split, layers.grouped)):
            held = [repr(part.selection) for candidate in kind + up + experts for part in candidate.parts]
            assert len(set(held)) == len(held)


def test_transformer_engine_fuses_the_norm_before_a_linear_layer_and_no_other() -> None:
    assert [name for name in names_of(TABLES, transformer_engine=True) if "norm" in name] == [
        "self_attention.linear_qkv.layer_norm_weight",
        "mlp.linear_fc1.layer_norm_weight",
    ]
    assert [name for name in names_of(TABLES) if "norm" in name] == ["input_layernorm.weight", "pre_mlp_layernorm.weight"]
    before_router = [each.stored for each in TABLES.te.sparse if "norm" in each.stored][:4]
    assert before_router[0] == "self_attention.linear_qkv.layer_norm_weight"
    assert before_router[2] == "pre_mlp_layernorm.weight"


def test_a_framework_reads_and_writes_by_its_own_tables() -> None:
    renamed = tuple(
        replace(each, stored="attention." + each.stored.partition(".")[2]) if "self_attention" in each.stored else each
        for each in TABLES.local.dense
    )
    names = names_of(replace(TABLES, format="toy", local=replace(TABLES.local, dense=renamed)))
    assert {"attention.linear_qkv.weight", "mlp.linear_fc1.weight"} <= set(names)


def test_an_error_about_a_weight_without_a_place_has_the_frameworks_name() -> None:
    fewer = tuple(each for each in TABLES.local.dense if "linear_fc1" not in each.stored)
    with pytest.raises(LayoutError, match=r"^toy has no place for mlp\.linear_fc1\.weight of llama2"):
        names_of(replace(TABLES, format="toy", local=replace(TABLES.local, dense=fewer)))
