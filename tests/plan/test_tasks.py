"""Cutting into tasks: nothing lost, nothing twice, nothing too large, layers together."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from convsvc.plan import tasks as cutting
from convsvc.plan.records import Fill, Place, PlannedTensor, Transfer, View
from convsvc.plan.reverse import reverse_transfer


def planned(*shapes: tuple[int, ...]) -> list[PlannedTensor]:
    return [PlannedTensor(0, f"t{at}", "BF16", shape, 0, 2 * prod(shape)) for at, shape in enumerate(shapes)]


def plain(name: str, rows: int, columns: int, pieces: int = 1) -> Transfer:
    """A matrix held in `pieces` stored tensors and wanted as one, with a padding row."""
    edges = [rows * at // pieces for at in range(pieces + 1)]
    reads = tuple(View((a, 0), (b, columns), (columns, 1), (Place(at, 0),)) for at, (a, b) in enumerate(pairwise(edges)) if a < b)
    return Transfer(
        name,
        (rows, columns),
        (0, 1),
        reads,
        (View((0, 0), (rows, columns), (columns, 1), (Place(0, 0),)),),
        (Fill(0, rows * columns, columns),),
        checks=tuple(view._replace(places=(Place(0, 7),)) for view in reads),
        padding=(Fill(0, rows * columns, columns),),
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(1, 6), st.integers(1, 50))
def test_the_pieces_of_a_transfer_are_the_transfer(rows: int, columns: int, pieces: int, parts: int) -> None:
    whole = plain("w", rows, columns, pieces)
    cut = cutting.cut_transfer(whole, parts)
    assert len(cut) <= max(1, min(parts, rows))
    assert sum(view.volume for piece in cut for view in piece.writes) == rows * columns
    assert sum(view.volume for piece in cut for view in piece.reads) == rows * columns
    assert sum(view.volume for piece in cut for view in piece.checks) == rows * columns
    assert [fill for piece in cut for fill in piece.fills] == list(whole.fills)
    assert [run for piece in cut for run in piece.padding] == list(whole.padding)
    for piece in cut:
        (write,) = piece.writes
        assert write.places[0].offset == write.starts[0] * columns
        assert sum(view.volume for view in piece.reads) == write.volume


def test_a_task_is_about_as_large_as_it_may_be_and_layers_stay_together() -> None:
    source, target = planned((1 << 14, 1 << 10)), planned(((1 << 14) + 1, 1 << 10))
    layers = [(f"decoder.layers.{at}.", plain("w", 1 << 14, 1 << 10)) for at in range(20)]
    tasks = cutting.cut_tasks(layers, source, target)
    assert [task.id for task in tasks] == list(range(len(tasks)))
    assert all(task.bytes_in + task.bytes_out <= cutting.MOST_BYTES for task in tasks)
    assert sum(len(task.transfers) for task in tasks) == 20
    assert tasks[0].name == "decoder.layers.0"


def test_small_layers_share_a_task_and_a_huge_tensor_has_several() -> None:
    small = cutting.cut_tasks([(f"decoder.layers.{at}.", plain("w", 8, 8)) for at in range(20)], planned((9, 8)), planned((9, 8)))
    assert [task.name for task in small] == ["decoder.layers.0 to decoder.layers.19"]
    huge = cutting.cut_tasks([("embedding", plain("w", 1 << 20, 1 << 12))], planned((1 << 20, 1 << 12)), planned(((1 << 20) + 1, 1 << 12)))
    assert len(huge) >= 16
    assert max(task.bytes_in for task in huge) < 1.1 * min(task.bytes_in for task in huge)


def test_a_tensor_whose_outermost_axis_is_short_is_cut_along_the_next() -> None:
    rows, columns = 1 << 14, 1 << 12
    shape = (2, rows, columns)  # gate and up: 256 MiB, on 64 ranks
    read = View((0, 0, 0), shape, (rows * columns, columns, 1), (Place(0, 0),))
    written = View((0, 0, 0), shape, (rows * columns, columns, 1), tuple(Place(at, 0) for at in range(64)))
    tasks = cutting.cut_tasks(
        [("decoder.layers.0.", Transfer("fc1", shape, (0, 1, 2), (read,), (written,)))], planned(shape), planned(*[shape] * 64)
    )
    sizes = sorted(task.bytes_in + task.bytes_out for task in tasks)
    assert sizes[-1] <= cutting.TOLERANCE * cutting.MOST_BYTES
    assert sizes[-1] <= 1.5 * sizes[len(sizes) // 2]
    assert sum(task.bytes_out for task in tasks) == 64 * 2 * prod(shape)
    assert sum(view.volume for task in tasks for transfer in task.transfers for view in transfer.writes) == prod(shape)


def test_the_way_back_reads_every_place_that_was_written_and_compares_no_more_than_that() -> None:
    forth = Transfer(
        "w",
        (8, 4),
        (0, 1),
        (View((0, 0), (8, 4), (4, 1), (Place(0, 0),)),),
        (View((2, 0), (6, 4), (4, 1), (Place(1, 0), Place(2, 0))),),
        (Fill(2, 16, 4),),
        checks=(View((0, 0), (8, 4), (4, 1), (Place(5, 0),)),),
    )
    back = reverse_transfer(forth, planned(*[(8, 4)] * 6))
    assert back.reads[0].starts == (2, 0)
    assert [view.places for view in (*back.reads, *back.checks)] == [(Place(1, 0),), (Place(2, 0),)]
    assert back.padding == (Fill(2, 16, 4),)
    (compared,) = back.writes
    assert (compared.starts, compared.stops) == ((2, 0), (6, 4))
    assert compared.places == (Place(0, 8), Place(5, 8))
