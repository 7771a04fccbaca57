"""Pipelines as Megatron's args state them, and the tables of layers that we make of them."""

from __future__ import annotations

from itertools import product
from typing import Any

from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pattern import parse_pattern
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.errors import LayoutError

Table = list[list[list[int]]]
EVEN = [
    {"layers": layers, "pp": pp, "vpp": vpp} for layers, pp, vpp in product((4, 8, 12), (1, 2, 3, 4), (None, 2, 3)) if pp > 1 or not vpp
]
UNEVEN = [
    {
        "layers": layers,
        "pp": pp,
        "vpp": vpp,
        "num_layers_in_first_pipeline_stage": first,
        "num_layers_in_last_pipeline_stage": last,
    }
    for layers, pp, vpp, first, last in product((5, 8, 12), (2, 3, 4), (None, 2), (None, 1, 2, 4), (None, 2, 4))
    if first or last
]
COUNTING = [
    {
        "layers": layers,
        "pp": pp,
        "vpp": vpp,
        "account_for_embedding_in_pipeline_split": embedding,
        "account_for_loss_in_pipeline_split": output,
    }
    for layers, pp, vpp, embedding, output in product((6, 7, 11), (2, 4), (None, 2, 3), (False, True), (False, True))
    if embedding or output
]
PATTERNS = [
    {"layers": layers, "pp": pp, "pipeline_model_parallel_layout": pattern, "mtp": mtp}
    for layers, pp, pattern, mtp in (
        (4, 2, "Et|tttL", None),
        (5, 2, "E|tt|tt|tL", None),
        (62, 16, "Ett,(tt|)*29,tt|m|L", 1),
        (13, 4, "Et*3|(tt|)*4,t|t|L", None),
        (4, 2, [["embedding", "decoder"], ["decoder", "decoder", "decoder", "loss"]], None),
        (8, 4, "E|(tt|)*2,(t|)*4,mL", 1),
        (8, 4, "E|t*2|(tt|)*2,t|t|(|)*1,L", None),
        (5, 2, "Et|tttL", None),
        (4, 3, "Et|tttL", None),
        (4, 2, "tE|tttL", None),
        (4, 2, "Et|tLtt", None),
        (4, 2, "Ex|tttL", None),
        (4, 2, "Ett|t|m|tL", 1),
        (4, 2, "Ett|t|mt|mL", 2),
    )
]
PIPELINES: list[dict[str, Any]] = EVEN + UNEVEN + COUNTING + PATTERNS


def ours(pipeline: dict[str, Any]) -> Table | str:
    """The table as `place_layers` gives it: the numbers of the layers of each stage in each chunk."""
    pattern = pipeline.get("pipeline_model_parallel_layout")
    try:
        placement = place_layers(
            pipeline["layers"],
            Parallel(
                pp=pipeline["pp"],
                virtual_stages=pipeline.get("vpp"),
                first_layers=pipeline.get("num_layers_in_first_pipeline_stage"),
                last_layers=pipeline.get("num_layers_in_last_pipeline_stage"),
                embedding_counts=pipeline.get("account_for_embedding_in_pipeline_split", False),
                output_counts=pipeline.get("account_for_loss_in_pipeline_split", False),
                pattern=None if pattern is None else parse_pattern(pattern),
            ),
        )
    except (LayoutError, ValueError) as error:
        return str(error)
    table: Table = [[[] for _ in range(pipeline["pp"])] for _ in range(placement.chunks or 1)]
    for layer, slot in enumerate(placement.layers):
        assert slot.number == len(table[slot.chunk or 0][slot.stage])
        table[slot.chunk or 0][slot.stage].append(layer)
    return table
