"""Which weights are linear layers' follows from the tables: from what goes in, and how the matrix lies."""

from __future__ import annotations

import pytest

from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PACKED_QKV, QKV
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, ROUTER
from convsvc.families import gpt2, gpt_neox
from convsvc.families.qwen2_vl import QWEN2_VL
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import DECODER
from convsvc.tensors.declare import Row, logical, row
from convsvc.tensors.notation import NotationError
from tests.tiny_checkpoints import SIZES


def linear_of(family: Family) -> set[str]:
    return {each.stored for part in (family.attention, family.mlp, family.experts) for each in part if each.linear}


@pytest.mark.parametrize(
    ("made", "linear"),
    [
        (row("q.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"), "layer"),
        (row("qkv.weight", PACKED_QKV), "layer"),
        (row("experts.{expert}.w1.weight", EXPERT_FC1.at(glu="0"), "expert_ffn hidden"), "experts"),
        (row("experts.w1.weight", EXPERT_FC1, "expert (glu expert_ffn) hidden"), None),
        (row("experts.w3.weight", EXPERT_FC1.at(glu="1"), "(expert expert_ffn) hidden"), None),
        (row("experts.w2.weight", EXPERT_FC2, "expert hidden expert_ffn"), None),
        (row("c_fc.weight", FC1.at(glu="0"), "hidden ffn"), None),
        (row("c_proj.weight", FC2, "ffn hidden"), None),
        (row("gate_up_proj", FC1, "(glu ffn) hidden"), None),
        (row("gate.weight", ROUTER, "expert hidden"), None),
    ],
    ids=lambda value: value.stored if isinstance(value, Row) else "",
)
def test_a_row_is_a_linear_layers_where_all_that_goes_in_lies_on_the_last_axis(made: Row, linear: str | None) -> None:
    assert made.linear == linear


def test_a_matrix_that_lies_turned_is_none_and_a_fused_one_is_one() -> None:
    assert linear_of(gpt2.FAMILY) == set()
    fused = {"attention.query_key_value.weight", "attention.dense.weight", "mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight"}
    assert linear_of(gpt_neox.FAMILY) == fused


def test_towers_have_none_whatever_blocks_they_share_with_decoders() -> None:
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 4, "patch_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    config = {**SIZES, "num_hidden_layers": 1, "vision_config": {**vision, "hidden_size": 16, "spatial_merge_size": 2}}
    model = QWEN2_VL.build(Facts(config, "config.json"))
    found = {scope.module: {each.stored for each in scope.rows if each.linear} for scope in model.scopes if scope.kind == "layer"}
    assert len(found.pop(DECODER)) == 7
    assert found == {"image_encoder": set()}


def test_what_goes_in_is_an_axis() -> None:
    with pytest.raises(NotationError, match="w has no axis ffn"):
        logical("w", "hidden out", over="ffn")
