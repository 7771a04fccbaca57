"""Where layers lie, and every impossible combination as an error that names the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convsvc.dialects.mcore.grid import Parallel, check_sizes, ranks, slice_evenly
from convsvc.dialects.mcore.pattern import parse_pattern
from convsvc.dialects.mcore.pipeline import place_layers, table_of
from convsvc.errors import LayoutError
from convsvc.models.placement import LayerPlace


def where(num_layers: int, parallel: Parallel) -> list[tuple[int, int | None, int]]:
    return [(slot.stage, slot.chunk, slot.number) for slot in place_layers(num_layers, parallel).layers]


def test_stages_take_equal_runs_of_layers() -> None:
    assert where(4, Parallel(pp=2)) == [(0, None, 0), (0, None, 1), (1, None, 0), (1, None, 1)]


def test_a_layer_list_gives_each_stage_its_count() -> None:
    assert [slot[0] for slot in where(8, Parallel(pp=4, layer_list=(1, 3, 2, 2)))] == [0, 1, 1, 1, 2, 2, 3, 3]


def test_virtual_stages_interleave_the_stages() -> None:
    assert where(4, Parallel(pp=2, layers_per_virtual_stage=1)) == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]


def test_virtual_stages_by_their_number_are_those_by_their_length() -> None:
    assert where(8, Parallel(pp=2, virtual_stages=2)) == where(8, Parallel(pp=2, layers_per_virtual_stage=2))


def test_one_virtual_stage_is_none() -> None:
    plain = place_layers(4, Parallel(pp=2))
    assert place_layers(4, Parallel(pp=2, virtual_stages=1)) == place_layers(4, Parallel(pp=2, layers_per_virtual_stage=2)) == plain
    assert plain.chunks is None


def test_the_first_and_the_last_stage_may_have_other_numbers() -> None:
    assert table_of(5, Parallel(pp=3, first_layers=1)).counts == ((1, 2, 2),)
    assert table_of(8, Parallel(pp=4, first_layers=1, last_layers=3)).counts == ((1, 2, 2, 3),)
    assert table_of(10, Parallel(pp=3, last_layers=2, virtual_stages=2)).counts == ((2, 2, 1), (2, 2, 1))


def test_an_embedding_or_an_output_may_count_as_a_layer() -> None:
    assert table_of(7, Parallel(pp=2, embedding_counts=True)).counts == ((3, 4),)
    assert table_of(10, Parallel(pp=2, virtual_stages=3, embedding_counts=True, output_counts=True)).counts == ((1, 2), (2, 2), (2, 1))


def test_a_pattern_says_where_everything_lies() -> None:
    parallel = Parallel(pp=2, pattern=parse_pattern("E|tt|tt,m|L"))
    placement = place_layers(4, parallel)
    assert where(4, parallel) == [(1, 0, 0), (1, 0, 1), (0, 1, 0), (0, 1, 1)]
    assert (placement.first, placement.mtp, placement.last) == ((0, 0), (0, 1), (1, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ett|x|L", "'x'"),
        ("tt|E|L", "E first"),
        ("Et*99999999999|L", "over 100000 letters"),
        ("E" + "t*9999" * 11 + "|L", "over 100000 letters"),
        ([["embedding"], "tt", ["loss"]], "neither a text nor a list of lists"),
        ([["embedding", 7], ["loss"]], "'[?]'"),
        (17, "neither a text nor a list of lists"),
    ],
)
def test_what_is_no_pattern_is_refused_at_a_bounded_price(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_pattern(text)  # type: ignore[arg-type]


def test_dualpipev_goes_down_the_stages_and_comes_back() -> None:
    assert where(8, Parallel(pp=2, dualpipev=True)) == [
        (0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (0, 1, 0), (0, 1, 1),
    ]  # fmt: skip
    placement = place_layers(8, Parallel(pp=2, dualpipev=True))
    assert (placement.first, placement.last) == ((0, 0), (0, 1))


def test_noop_layers_keep_their_numbers_free() -> None:
    assert where(6, Parallel(pp=2, noop=(0, 7))) == [
        (0, None, 1), (0, None, 2), (0, None, 3), (1, None, 0), (1, None, 1), (1, None, 2),
    ]  # fmt: skip


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_every_layer_has_a_slot_of_its_own_and_layers_stay_in_order_in_a_chunk(pp: int, chunks: int, size: int, dual: bool) -> None:
    pp = max(pp, 2)
    parallel = Parallel(pp=pp, dualpipev=True) if dual else Parallel(pp=pp, layers_per_virtual_stage=size)
    slots = place_layers(pp * size * (2 if dual else chunks), parallel).layers
    assert len(set(slots)) == len(slots)
    for slot in slots:
        assert slot.number == 0 or LayerPlace(slot.stage, slot.chunk, slot.number - 1) in slots


@pytest.mark.parametrize(
    ("num_layers", "parallel", "numbers"),
    [
        (8, Parallel(pp=3), ["8 layers", "3"]),
        (8, Parallel(pp=2, layers_per_virtual_stage=3), ["4 layers", "3"]),
        (8, Parallel(layers_per_virtual_stage=2), ["is 2", "is 1"]),
        (6, Parallel(pp=2, dualpipev=True), ["6 layers", "2 stages", "3 each"]),
        (8, Parallel(dualpipev=True), ["dualpipev", "is 1"]),
        (8, Parallel(pp=2, dualpipev=True, layers_per_virtual_stage=1), ["2 layers", "says 1"]),
        (8, Parallel(pp=2, layer_list=(4, 4), layers_per_virtual_stage=2), ["4,4", "virtual"]),
        (8, Parallel(pp=2, layer_list=(4, 4), dualpipev=True), ["4,4", "dualpipev"]),
        (6, Parallel(pp=2, layer_list=(4, 4), noop=(6, 7)), ["4,4", "6,7"]),
        (8, Parallel(pp=4, layer_list=(4, 4)), ["2 numbers", "4"]),
        (8, Parallel(pp=2, layer_list=(3, 4)), ["7 layers", "8"]),
        (8, Parallel(pp=3, first_layers=3), ["first_pipeline_num_layers 3", "5 of 8", "2 other"]),
        (8, Parallel(pp=2, first_layers=3, last_layers=4), ["num_layers 3 and", "num_layers 4", "1 of 8", "0 other"]),
        (4, Parallel(pp=3, first_layers=3, last_layers=2), ["-1 of 4"]),
        (8, Parallel(pp=2, first_layers=3, embedding_counts=True), ["decoder_first", "account_for_embedding"]),
        (8, Parallel(pp=2, first_layers=2, layers_per_virtual_stage=2), ["decoder_first", "virtual"]),
        (8, Parallel(pp=2, layer_list=(4, 4), virtual_stages=2), ["4,4", "num_virtual_stages"]),
        (8, Parallel(pp=2, layer_list=(4, 4), first_layers=4), ["4,4", "decoder_first"]),
        (8, Parallel(pp=2, virtual_stages=3), ["4", "3 virtual"]),
        (8, Parallel(virtual_stages=2), ["2 virtual", "is 1"]),
        (8, Parallel(pp=2, virtual_stages=2, layers_per_virtual_stage=1), ["makes 4", "says 2"]),
        (8, Parallel(pp=2, embedding_counts=True), ["8 layers", "1 for account_for_embedding"]),
        (8, Parallel(pp=2, dualpipev=True, first_layers=2), ["decoder_first", "dualpipev"]),
        (8, Parallel(pp=2, pattern=("Et", "tL")), ["2 layers", "8"]),
        (3, Parallel(pp=2, pattern=("Et", "t", "tL")), ["3 stages", "size 2"]),
        (2, Parallel(pp=2, pattern=("Et", "tL"), first_layers=1), ["Et|tL", "decoder_first"]),
        (2, Parallel(pp=2, pattern=("Et", "tL"), virtual_stages=2), ["makes 1", "says 2"]),
        (2, Parallel(pp=2, pattern=("Ett", "m", "m", "L")), ["MTP", "2 stages"]),
        (6, Parallel(pp=2, noop=(6, 6)), ["6", "more than once"]),
        (6, Parallel(pp=2, noop=(3, 9)), ["9", "0 to 7"]),
    ],
)
def test_an_impossible_placement_names_its_numbers(num_layers: int, parallel: Parallel, numbers: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        place_layers(num_layers, parallel)
    assert all(number in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("parallel", "experts", "numbers"),
    [
        (Parallel(tp=4, etp=2), 8, ["is 2", "4"]),
        (Parallel(ep=2), 0, ["is 2", "no experts"]),
        (Parallel(ep=3), 8, ["8 experts", "3"]),
        (Parallel(tp=4, etp=4, ep=4, extend_ep=True), 8, ["8 experts", "4 x tensor_parallel_size 4"]),
        (Parallel(tp=2, etp=1, ep=2, extend_ep=True), 8, ["moe_tp_extend_ep", "expert_tensor_parallel_size 1"]),
    ],
)
def test_sizes_that_contradict_each_other_are_named(parallel: Parallel, experts: int, numbers: list[str]) -> None:
    with pytest.raises(LayoutError) as caught:
        check_sizes(parallel, experts)
    assert all(number in str(caught.value) for number in numbers)


def test_with_etp_1_only_the_pairs_that_share_a_process_have_files() -> None:
    assert [(rank.t, rank.e) for rank in ranks(Parallel(tp=4, ep=2, etp=1))] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    with pytest.raises(LayoutError, match="3 and expert_parallel_size 2"):
        ranks(Parallel(tp=3, ep=2, etp=1))


def test_an_axis_is_cut_evenly_or_not_at_all() -> None:
    assert [slice_evenly("ffn", 12, 3, at, "tp") for at in range(3)] == [(0, 4), (4, 8), (8, 12)]
    with pytest.raises(LayoutError, match="ffn has 10 elements, which tp 3 does not divide"):
        slice_evenly("ffn", 10, 3, 0, "tp")
