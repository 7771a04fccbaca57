"""How a model is cut over ranks that are asked for: what a stage has, what of it a rank holds, the strategy that says so. Pure.

As the training's own strategies cut (mindformers 2.1.0, parallel_core): rows of column-parallel matrices and of vocabularies by tp, columns
of row-parallel ones; experts one after the other over ep and tp; norms and routers not at all. Data-parallel ranks hold the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from convsvc.dialects.cuts import Cut
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mindformers.job import MindFormersTarget
from convsvc.dialects.mindformers.layout import Settings
from convsvc.dialects.mindformers.mesh import cuts_of, dealt, declared_layout
from convsvc.dialects.mindformers.tables import prefix_of, rows_of
from convsvc.errors import LayoutError
from convsvc.formats.strategy.records import ParameterLayout
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import lay
from convsvc.tensors.declare import Row

MOST_RANKS = 100_000
EPOCH_STEP = "1_1"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parallel sizes, all decided. `shards`: over how many ranks the optimizer cuts once more; 0 for none."""

    tp: int
    pp: int
    ep: int
    dp: int
    shards: int
    layers: tuple[int, ...] | None = None

    @property
    def ranks(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def mesh(self) -> dict[str, int]:
        """A stage's axes, outermost first."""
        return {"dp": self.dp, "tp": self.tp}

    @property
    def expert_mesh(self) -> dict[str, int]:
        return {"dp": self.dp // self.ep, "ep": self.ep, "tp": self.tp}


def sizes_of(target: MindFormersTarget, num_experts: int) -> Sizes | None:
    """The sizes that a job asks for; None where it asks for a whole checkpoint. Raises LayoutError for sizes that contradict each other."""
    stated = (
        target.tensor_parallel_size, target.pipeline_parallel_size, target.expert_parallel_size, target.data_parallel_size,
        target.optimizer_weight_shard_size, target.num_layer_list,
    )  # fmt: skip
    if all(each is None for each in stated):
        if target.remove_redundancy:
            raise LayoutError(
                "remove_redundancy is for checkpoints that are cut over ranks", do="state tensor_parallel_size and the others"
            )
        return None
    tp, pp, ep = (each or 1 for each in stated[:3])
    dp = target.data_parallel_size or ep
    shards = target.optimizer_weight_shard_size or 1
    sizes = Sizes(tp, pp, ep, dp, shards if shards > 1 else 0, target.num_layer_list)
    if ep > 1 and (not num_experts or num_experts % ep):
        raise LayoutError(f"expert_parallel_size {ep} does not divide the {num_experts} experts of the model", do="choose one that does")
    if dp % ep:
        raise LayoutError(f"expert_parallel_size {ep} does not divide data_parallel_size {dp}", do="choose one that does")
    if shards > 1 and dp % shards:
        raise LayoutError(f"optimizer_weight_shard_size {shards} does not divide data_parallel_size {dp}", do="choose one that does")
    if sizes.ranks > MOST_RANKS:
        raise LayoutError(f"tp {tp}, pp {pp} and dp {dp} are more than {MOST_RANKS} ranks", do="check these sizes")
    return sizes


def rank_file(rank: int, prefix: str) -> str:
    """A rank's file, named as training names it.

    >>> rank_file(3, "qwen3")
    'checkpoint/rank_3/qwen3_rank_3-1_1.safetensors'
    """
    return f"checkpoint/rank_{rank}/{prefix}_rank_{rank}-{EPOCH_STEP}.safetensors"


def strategy_file(rank: int) -> str:
    return f"strategy/ckpt_strategy_rank_{rank}.ckpt"


def strategies(model: Model, settings: Settings, sizes: Sizes) -> dict[int, dict[str, ParameterLayout]]:
    """Every parameter's layout, by stage. Raises LayoutError where an axis does not come out even."""
    stages: dict[int, dict[str, ParameterLayout]] = {stage: {} for stage in range(sizes.pp)}
    for scope, stage in _stages(model, sizes):
        for row in rows_of(scope, model, settings.flags):
            _check_even(row, scope, sizes.tp)
            for laid in lay(row, scope.sizes, {}, scope.logical, prefix_of(scope)):
                cut = _cut_of(row, laid.shape, sizes)
                mesh = sizes.expert_mesh if any("ep" in each for each in cut) else sizes.mesh
                stages[stage][laid.name] = declared_layout(laid.name, mesh, cut, laid.shape, sizes.shards)
    for laid in model.lay_carried():
        stages[sizes.pp - 1][laid.name] = declared_layout(laid.name, sizes.mesh, ((),) * len(laid.shape), laid.shape)
    return stages


def _check_even(row: Row, scope: Scope, tp: int) -> None:
    """Raises LayoutError where ranks would share what training gives whole: a query group, a row of the gate with its row of up."""
    if row.tp is not None and row.ep is None and scope.sizes[row.tp] % tp:
        raise LayoutError(
            f"tensor_parallel_size {tp} does not divide the {scope.sizes[row.tp]} of axis {row.tp} of {scope.logical}{row.stored}",
            do="choose one that does",
        )


def cuts(
    stages: Mapping[int, Mapping[str, ParameterLayout]], shapes: Mapping[str, tuple[int, ...]], sizes: Sizes, prefix: str, once: bool
) -> dict[str, tuple[Cut, ...]]:
    """What of each tensor lies in which rank's file; with `once` what several ranks have alike lies on one of them."""
    size = sizes.tp * sizes.dp
    found: dict[str, list[Cut]] = {}
    for stage, layouts in stages.items():
        pieces = cuts_of(layouts.values(), {name: len(shapes[name]) for name in layouts})
        kept = dealt(pieces) if once else None
        for name, piece in pieces.items():
            ranks = [rank for rank in range(size) if kept is None or name in kept[rank]]
            held = (Cut(rank_file(stage * size + rank, prefix), *piece.box(rank, shapes[name])) for rank in ranks)
            found.setdefault(name, []).extend(held)
    return {name: tuple(held) for name, held in found.items()}


def _stages(model: Model, sizes: Sizes) -> Iterator[tuple[Scope, int]]:
    """Every scope with its pipeline stage."""
    placement = place_layers(model.num_layers, Parallel(pp=sizes.pp, layer_list=sizes.layers))
    for scope in model.scopes:
        if scope.kind == "layer":
            yield scope, placement.layers[scope.number].stage
        else:
            yield scope, 0 if scope.kind == "embedding" else sizes.pp - 1


def _cut_of(row: Row, shape: tuple[int, ...], sizes: Sizes) -> tuple[tuple[str, ...], ...]:
    """For every dimension the mesh axes that cut it."""
    cut: list[tuple[str, ...]] = [() for _ in shape]
    order = row.parts[0].order
    if row.ep is not None and sizes.ep * sizes.tp > 1:
        dimension = next(at for at, group in enumerate(order) if row.ep in group)
        cut[dimension] = tuple(axis for axis in ("ep", "tp") if sizes.expert_mesh[axis] > 1)
        if shape[dimension] % prod(sizes.expert_mesh[axis] for axis in cut[dimension]):
            cut[dimension] = ("ep",) if sizes.ep > 1 else ()
    elif row.tp is not None and sizes.tp > 1:
        cut[next(at for at, group in enumerate(order) if row.tp in group)] = ("tp",)
    return tuple(cut)
