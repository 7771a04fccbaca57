"""Where the modules of MindSpeed-MM lie: empty stages, lists that begin again, U shapes, uneven heads, zeros for the bias of keys."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.dialects import target_of
from convsvc.dialects.layout import Layout
from convsvc.errors import LayoutError
from convsvc.families import FAMILIES, Facts, find_family
from convsvc.models.model import Model
from convsvc.spec import parse_target
from tests.golden.mindspeed_mm_corpus import fixture


def model_of(name: str) -> Model:
    facts = Facts(fixture(name)["config"], "config.json")
    return find_family(None, facts).build(facts)


def laid(name: str, **stated: Any) -> Layout:
    target = target_of("mindspeed-mm")
    model = model_of(name)
    return target.layout(model, target.settings(parse_target({"format": "mindspeed-mm", "path": "/", **stated}), model))


def held(layout: Layout, rank: str) -> dict[str, tuple[int, ...]]:
    """A rank's tensors, less their common beginnings, with their shapes."""
    return {layout.kinds[entry.kind].name: layout.kinds[entry.kind].shape for entry in layout.entries if entry.file.split("/")[1] == rank}


def stages(layout: Layout, part: str) -> dict[str, list[str]]:
    """The rank directories and chunks that hold a tensor whose name ends so."""
    where: dict[str, list[str]] = {}
    for entry in layout.entries:
        name = layout.kinds[entry.kind].name
        if name.endswith(part):
            where.setdefault(entry.file.split("/")[1], []).append(name.partition("/")[0])
    return where


EMBEDDING, HEAD, PATCHES = "embedding.word_embeddings.weight", "decoder.final_layernorm.weight", "patch_embed.proj.weight"


def test_what_lies_before_the_layers_is_in_the_first_stage_that_has_one() -> None:
    layout = laid("qwen2vl", llm_pp_layers=[0, 2, 2, 0], vit_pp_layers=[0, 3, 0, 0])
    assert list(stages(layout, EMBEDDING)) == list(stages(layout, PATCHES)) == ["mp_rank_00_001"]
    assert list(stages(layout, HEAD)) == ["mp_rank_00_002"]
    assert held(layout, "mp_rank_00_003") == {}


def test_a_towers_list_that_is_shorter_than_the_pipeline_begins_again() -> None:
    layout = laid("qwen2vl", llm_pp_layers=[[1, 1], [1, 1]], vit_pp_layers=[[3]])
    assert stages(layout, PATCHES) == {"mp_rank_00_000": ["model0", "model1"], "mp_rank_00_001": ["model0", "model1"]}


def test_a_decoders_list_that_is_shorter_ends_in_empty_stages() -> None:
    layout = laid("qwen2vl", llm_pp_layers=[4], vit_pp_layers=[2, 1])
    assert list(stages(layout, EMBEDDING)) == list(stages(layout, HEAD)) == ["mp_rank_00_000"]


def test_a_list_of_lists_with_one_row_is_no_virtual_stage() -> None:
    assert laid("qwen2vl", llm_pp_layers=[[2, 2]], vit_pp_layers=[[3, 0]]) == laid("qwen2vl", llm_pp_layers=[2, 2], vit_pp_layers=[3, 0])


def test_a_u_shape_ends_in_the_first_stages_last_chunk() -> None:
    layout = laid("qwen2_5vl", llm_pp_layers=[[0, 0], [2, 2], [0, 0]], vit_pp_layers=[[2, 1], [0, 0], [0, 0]], ldt=True)
    assert stages(layout, EMBEDDING) == {"mp_rank_00_000": ["model1"]}
    assert stages(layout, HEAD) == {"mp_rank_00_000": ["model2"]}


def test_ranks_are_as_many_as_the_most_that_a_module_is_cut_over() -> None:
    layout = laid("qwen2vl", tp_size=2, vit_tp_size=4)
    qkv = "image_encoder.encoder.blocks.layers.0.self_attention.linear_qkv.weight"
    shapes = [held(layout, f"mp_rank_0{rank}")[f"model/{qkv}"] for rank in range(4)]
    assert shapes == [(12, 16)] * 4
    first, third = (held(layout, f"mp_rank_0{rank}")["model/text_decoder.output_layer.weight"] for rank in (0, 2))
    assert first == third == (48, 32)


def test_heads_and_rows_that_do_not_divide_are_spread_unevenly_in_internvl() -> None:
    layout = laid("internvl_llama", tp_size=4)
    heads = [
        held(layout, f"mp_rank_0{rank}")["model/image_encoder.encoder.encoder.layers.0.self_attention.linear_proj.weight"]
        for rank in range(4)
    ]
    assert heads == [(20, 8), (20, 4), (20, 4), (20, 4)]
    rows = [held(layout, f"mp_rank_0{rank}")["model/text_decoder.embedding.word_embeddings.weight"][0] for rank in range(4)]
    assert rows == [25, 24, 24, 24]
    first = [kind.blocks[0].starts[0] for kind in layout.kinds if kind.name == "model/text_decoder.embedding.word_embeddings.weight"]
    assert first == [0, 25, 49, 73]


def test_a_towers_queries_keys_and_values_are_cut_with_no_regard_to_heads_in_the_canonical_structure() -> None:
    layout = laid("qwen2vl", tp_size=2, enable_canonical_hf_struct=True)
    first = next(
        layout.kinds[entry.kind]
        for entry in layout.entries
        if "mp_rank_00/" in entry.file and layout.kinds[entry.kind].name.endswith("blocks.layers.0.self_attention.linear_qkv.bias")
    )
    # Four heads four wide: all queries, and the keys of two heads.
    assert [(block.starts, block.stops, block.offset) for block in first.blocks] == [((0, 0, 0), (4, 1, 4), 0), ((0, 1, 0), (2, 2, 4), 16)]


def test_zeros_stand_for_the_bias_that_keys_do_not_have() -> None:
    layout = laid("qwen2_5omni", tp_size=2)
    bias = next(kind for kind in layout.kinds if kind.name.endswith("audio_encoder.encoder.blocks.layers.0.self_attention.linear_qkv.bias"))
    # A head is four wide: queries, keys, values in turn.
    assert bias.shape == (24,)
    assert bias.idle == ((4, 4), (16, 4))
    assert sum(block.volume for block in bias.blocks) == 16


@pytest.mark.parametrize(
    ("name", "stated", "says"),
    [
        ("qwen2vl", {"llm_pp_layers": [3]}, r"text_decoder, \[3\], has 3 layers; the model has 4"),
        ("qwen2vl", {"vit_pp_layers": [[2, 2]]}, r"image_encoder, \[2,2\], has 4 layers; the model has 3"),
        ("qwen2vl", {"llm_pp_layers": [[1, 1], [2]]}, "every virtual stage must have as many pipeline stages"),
        ("qwen2vl", {"audio_pp_layers": [3]}, "audio_pp_layers: this qwen2-vl has no audio_encoder"),
        ("qwen2vl", {"tp_size": 8}, "linear_qkv.weight: num_key_value_heads has 4 elements, which tp_size .* 8 does not divide"),
        ("qwen2vl", {"tp_size": 2, "vit_tp_size": 3}, "divide the grid's"),
        ("qwen2vl", {"ep_size": 2}, "the model has no experts"),
        ("qwen3vl_moe", {"ep_size": 3}, "4 experts cannot be spread evenly"),
        ("glm4_1v", {"tp_size": 2}, "how mindspeed-mm cuts glm4v over tensor ranks is not known"),
        ("glm4_1v", {"enable_canonical_hf_struct": True}, "has no canonical structure for glm4v"),
        ("mistral3", {}, "mindspeed-mm has no place for mistral3"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(name: str, stated: dict[str, Any], says: str) -> None:
    with pytest.raises(LayoutError, match=says):
        laid(name, **stated)


def test_every_family_with_tables_is_a_family() -> None:
    from convsvc.dialects.mindspeed_mm.tables import BY_FAMILY

    assert set(BY_FAMILY) <= set(FAMILIES)
