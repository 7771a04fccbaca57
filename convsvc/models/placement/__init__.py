"""The rank grid and the placement of layers: which rank file holds what. Pure.

tp, pp, ep, etp are sizes; t, p, e are a rank's coordinates. Layers are counted with noop layers included where a *position* is meant,
without them where a *layer* is meant. Conventions are Megatron-LM's; those marked MindSpeed are of MindSpeed-LLM (commit c77308a1),
as its converter writes them.
"""

from __future__ import annotations

from convsvc.models.placement.grid import MOST_RANKS, Parallel, Rank, check_sizes, ranks, slice_evenly
from convsvc.models.placement.layers import LayerPlace, Placement, place_layers
from convsvc.models.placement.pattern import parse_pattern
from convsvc.models.placement.table import Table, table_of

__all__ = [
    "MOST_RANKS",
    "Parallel",
    "Placement",
    "Rank",
    "LayerPlace",
    "Table",
    "check_sizes",
    "parse_pattern",
    "place_layers",
    "ranks",
    "slice_evenly",
    "table_of",
]
