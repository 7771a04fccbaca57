"""Which slice of a parameter lies on which rank of a pipeline stage, from its layout; and the layout for a cut that is wanted. Pure.

Ranks are those within a stage: the global rank is stage x ranks of a stage + rank. Their mesh runs outermost axis first, as ranks count.
A dimension that several axes cut is cut by the first one coarsest; an optimizer's shards cut dimension 0 of what is left once more
(mindspore/parallel/_tensor.py, _load_tensor_by_layout and _construct_tensor_layout_helper).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from convsvc.errors import LayoutError
from convsvc.formats.strategy.records import ParameterLayout
from convsvc.tensors.boxes import Box


@dataclass(frozen=True, slots=True)
class Division:
    """Into how many equal pieces every dimension is cut (`counts`), and which of them every rank has (`pieces[rank]`, one a dimension).

    `shards` is how many of dimension 0's pieces are the optimizer's, each within a piece of the model's.
    """

    counts: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]
    shards: int = 1

    def box(self, rank: int, shape: tuple[int, ...]) -> Box:
        """What the rank has of a tensor of this (whole) shape. Raises LayoutError where a dimension cannot be cut so."""
        if len(shape) != len(self.counts) or any(size % count for size, count in zip(shape, self.counts, strict=True)):
            raise LayoutError(f"a tensor of shape {shape} cannot be cut into {self.counts} pieces", do=_DO)
        steps = [size // count for size, count in zip(shape, self.counts, strict=True)]
        starts = tuple([piece * step for piece, step in zip(self.pieces[rank], steps, strict=True)])
        return Box(starts, tuple([start + step for start, step in zip(starts, steps, strict=True)]))

    def whole(self, piece: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor whose pieces have this shape. Raises LayoutError if they have not as many dimensions."""
        if len(piece) != len(self.counts):
            raise LayoutError(f"a tensor of shape {piece} cannot be a piece of one that is cut into {self.counts}", do=_DO)
        return tuple([size * count for size, count in zip(piece, self.counts, strict=True)])

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The ranks that have the same piece, ascending, by their lowest rank."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for rank, piece in enumerate(self.pieces):
            alike.setdefault(piece, []).append(rank)
        return tuple(map(tuple, alike.values()))


_DO = "see that the strategy file is the one of the training that wrote these files"


def cut_of(layout: ParameterLayout, dimensions: int | None = None) -> Division:
    """How a layout cuts its parameter over the ranks of a stage; `dimensions` of the tensor, where they are known.

    >>> cut = cut_of(ParameterLayout("w", (2, 2), ((0,), ()), 2, -1))
    >>> cut.counts, [cut.box(rank, (8, 3)).starts for rank in range(4)]
    ((4, 1), [(0, 0), (4, 0), (2, 0), (6, 0)])

    Raises LayoutError if the optimizer's shards do not fit the replicas that there are.
    """
    mesh = layout.dev_matrix
    # Before MindSpore wrote an empty list behind it, one dimension cut by two axes looked like two dimensions.
    tensor_map = (sum(layout.tensor_map, ()),) if dimensions == 1 and len(layout.tensor_map) > 1 else layout.tensor_map
    axes = [[len(mesh) - 1 - axis for axis in each] for each in tensor_map]
    free = [axis for axis in range(len(mesh)) if axis not in {each for dim in axes for each in dim}]
    shards = _shards(layout, tensor_map, free)
    counts = [prod([mesh[axis] for axis in each]) for each in axes]
    pieces = []
    for rank in range(prod(mesh)):
        at = _coordinates(rank, mesh)
        piece = [_mixed(at, mesh, each) for each in axes]
        if shards > 1:
            piece[0] = piece[0] * shards + _mixed(at, mesh, free) % shards
        pieces.append(tuple(piece))
    if shards > 1:
        counts[0] *= shards
    return Division(tuple(counts), tuple(pieces), shards)


def cuts_of(layouts: Iterable[ParameterLayout], dimensions: Mapping[str, int]) -> dict[str, Division]:
    """`cut_of` by name; parameters that lie alike share theirs, as most of a model's do. Raises LayoutError that names the parameter."""
    alike: dict[tuple[object, ...], Division] = {}
    cuts = {}
    for layout in layouts:
        shard = (layout.opt_weight_shard_step, layout.opt_weight_shard_size)
        known = dimensions.get(layout.name)
        key = (layout.dev_matrix, layout.tensor_map, shard, known)
        cut = alike.get(key)
        if cut is None:
            try:
                cut = alike[key] = cut_of(layout, known)
            except LayoutError as error:
                raise error.beginning(f"parameter {layout.name}") from error
        cuts[layout.name] = cut
    return cuts


def dealt(cuts: Mapping[str, Division]) -> dict[int, set[str]]:
    """Which parameters each rank keeps where redundant ones are removed: the parameters that the same ranks have alike are dealt to
    these ranks in turn, by their sorted names (mindspore/train/_utils.py, remove_param_redundancy).

    >>> {rank: sorted(kept) for rank, kept in dealt({name: Division((1,), ((0,), (0,))) for name in "abc"}).items()}
    {0: ['a', 'c'], 1: ['b']}
    """
    named: dict[tuple[int, ...], list[str]] = {}
    groups: dict[int, tuple[tuple[int, ...], ...]] = {}
    for name in sorted(cuts):
        cut = cuts[name]
        if id(cut) not in groups:  # shared cuts, see cuts_of
            groups[id(cut)] = cut.groups()
        for group in groups[id(cut)]:
            named.setdefault(group, []).append(name)
    kept: dict[int, set[str]] = {rank: set() for cut in cuts.values() for rank in range(len(cut.pieces))}
    for group, names in named.items():
        for at, rank in enumerate(group):
            kept[rank].update(names[at :: len(group)])
    return kept


def declared_layout(
    name: str, mesh: Mapping[str, int], cut: tuple[tuple[str, ...], ...], shape: tuple[int, ...], optimizer_shards: int = 0
) -> ParameterLayout:
    """The layout of a parameter that is to be cut so: for every dimension the mesh axes that cut it, the coarsest first.

    `mesh` names a stage's axes, outermost first, with their sizes; `optimizer_shards` is 0 for none, -1 for as many as there are replicas.
    A parameter without replicas, or whose dimension 0 does not come out even, gets no optimizer's shards, as in MindSpore.

    >>> declared_layout("w", {"dp": 4, "tp": 2}, (("tp",), ()), (16, 3), 2)
    ParameterLayout(name='w', dev_matrix=(4, 2), tensor_map=((0,), ()), opt_weight_shard_step=2, opt_weight_shard_size=2, \
param_split_shape=(), indices_offset=(), field=0, tensor_shape=None)

    Raises LayoutError if the cut names an axis that the mesh lacks, or a dimension does not come out even.
    """
    axes = list(mesh)
    unknown = sorted({axis for each in cut for axis in each} - set(axes))
    if unknown or len(cut) != len(shape):
        raise LayoutError(f"{name} of shape {shape} cannot be cut by {cut}", facts=[f"the mesh has {', '.join(axes)}"])
    tensor_map = tuple([tuple([len(axes) - 1 - axes.index(axis) for axis in each]) for each in cut])
    layout = ParameterLayout(name, tuple(mesh.values()), tensor_map)
    cut_of(layout).box(0, shape)
    return _sharded(layout, shape, optimizer_shards)


def _sharded(layout: ParameterLayout, shape: tuple[int, ...], shards: int) -> ParameterLayout:
    mesh = layout.dev_matrix
    used = {len(mesh) - 1 - axis for each in layout.tensor_map for axis in each}
    free = [axis for axis, size in enumerate(mesh) if axis not in used and size > 1]
    if not shards or not free or not shape:
        return layout
    step = prod(mesh[free[-1] + 1 :])
    sharded = ParameterLayout(layout.name, mesh, layout.tensor_map, step, shards)
    cut = cut_of(sharded)
    return sharded if shape[0] % cut.counts[0] == 0 else layout


def _shards(layout: ParameterLayout, tensor_map: tuple[tuple[int, ...], ...], free: list[int]) -> int:
    """Into how many the optimizer cuts dimension 0 of what the model's axes leave."""
    mesh, size, step = layout.dev_matrix, layout.opt_weight_shard_size, layout.opt_weight_shard_step
    replicas = prod([mesh[axis] for axis in free])
    shards = replicas if size == -1 else size
    if not step or shards in (0, 1):
        return 1
    wide = [axis for axis in free if mesh[axis] > 1]
    left = shards if wide != [axis for axis, size in enumerate(mesh) if size > 1] or replicas % shards else 1
    for axis in reversed(wide):
        if left > mesh[axis] and left % mesh[axis] == 0:
            left //= mesh[axis]
        else:
            left = 1 if mesh[axis] % left == 0 else left
            break
    # MindSpore compares the step where it is one axis that is not cut by; elsewhere the axes alone say who is in a group.
    plain = len(wide) == 1 and all(len(each) < 2 for each in tensor_map)
    if left != 1 or not tensor_map or (plain and prod(mesh[wide[0] + 1 :]) != step):
        raise LayoutError(
            f"{layout.name} cannot have {shards} optimizer shards, {step} ranks apart",
            facts=[f"the mesh is {mesh}, of which {tuple(mesh[axis] for axis in free)} do not cut the parameter: {replicas} replicas"],
            do=_DO,
        )
    return shards


def _coordinates(rank: int, mesh: tuple[int, ...]) -> list[int]:
    at = []
    for size in reversed(mesh):
        rank, place = divmod(rank, size)
        at.append(place)
    return at[::-1]


def _mixed(at: list[int], mesh: tuple[int, ...], axes: list[int]) -> int:
    """The place along several axes as one number, the first axis coarsest."""
    number = 0
    for axis in axes:
        number = number * mesh[axis] + at[axis]
    return number
