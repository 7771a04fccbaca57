"""The parallel sizes of a checkpoint, its grid of ranks, and what a rank has of an axis. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.errors import LayoutError

# Ten times the largest training runs have; more are a mistake, of which a list would be made.
MOST_RANKS = 1_000_000


@dataclass(frozen=True, slots=True)
class Parallel:
    """The parallel sizes of a checkpoint, all decided.

    `etp` is 1 or `tp`; `noop` are positions. Chunks (virtual pipeline stages) are stated by `layers_per_virtual_stage`, or by their number
    in a stage, `virtual_stages`; without either there are none. Layers are spread evenly over stages but for what is stated: each stage's
    number (`layer_list`), that of the first or the last stage; that the embedding or the output counts as a layer (`embedding_counts`,
    `output_counts`); `pattern`, which says everything (`parse_pattern`); or `counts`, a table of layers [chunk][stage], of one of several
    modules as a rule: a smaller one than the grid begins again where it ends. `returns` then says that what lies behind the layers is
    in the first stage's last chunk (MindSpeed-MM's U shape).
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1
    layers_per_virtual_stage: int | None = None
    layer_list: tuple[int, ...] | None = None
    noop: tuple[int, ...] = ()
    dualpipev: bool = False
    extend_ep: bool = False
    virtual_stages: int | None = None
    first_layers: int | None = None
    last_layers: int | None = None
    embedding_counts: bool = False
    output_counts: bool = False
    pattern: tuple[str, ...] | None = None
    counts: tuple[tuple[int, ...], ...] | None = None
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Rank:
    t: int
    p: int
    e: int


def ranks(parallel: Parallel, every_pair: bool = False) -> tuple[Rank, ...]:
    """Every rank that has a file of its own.

    With etp 1 a rank's experts do not depend on t, and Megatron's rank order reads only the pairs (t, e) that share a process:
    the smaller coordinate is the larger one modulo the smaller size. `every_pair`: files of the others are there as well.

    >>> [(r.t, r.e) for r in ranks(Parallel(tp=2, ep=4, etp=1))]
    [(0, 0), (1, 1), (0, 2), (1, 3)]
    """
    tp, ep = parallel.tp, parallel.ep
    if max(tp, ep) * parallel.pp > MOST_RANKS:
        raise LayoutError(f"tp {tp}, pp {parallel.pp} and ep {ep} are more than {MOST_RANKS} rank files", do="check these sizes")
    if parallel.etp == 1 and tp > 1 and not every_pair:
        if max(tp, ep) % min(tp, ep):
            raise LayoutError(
                f"with expert_tensor_parallel_size 1, one of tensor_parallel_size {tp} and expert_parallel_size {ep} must divide the other"
            )
        pairs = [(at % tp, at % ep) for at in range(max(tp, ep))]
    else:
        pairs = [(t, e) for e in range(ep) for t in range(tp)]
    return tuple(Rank(t, p, e) for p in range(parallel.pp) for t, e in pairs)


def check_sizes(parallel: Parallel, num_experts: int) -> None:
    """Raise LayoutError for sizes that contradict each other, whatever the layers are."""
    if parallel.etp not in (1, parallel.tp):
        raise LayoutError(
            f"expert_tensor_parallel_size is {parallel.etp}; it must be 1 or tensor_parallel_size, {parallel.tp}",
            do="leave it out for tp",
        )
    if parallel.ep > 1 and not num_experts:
        raise LayoutError(f"expert_parallel_size is {parallel.ep}, but the model has no experts", do="use 1")
    if parallel.extend_ep and parallel.tp > 1 and parallel.etp == 1:
        raise LayoutError(
            "moe_tp_extend_ep spreads whole experts over tp x ep already; expert_tensor_parallel_size 1 cannot be set with it",
            do="leave one of them out",
        )
    if num_experts:
        spread = parallel.ep * (parallel.tp if parallel.extend_ep else 1)
        if num_experts % spread:
            over = f"expert_parallel_size {parallel.ep}" + (f" x tensor_parallel_size {parallel.tp}" if parallel.extend_ep else "")
            raise LayoutError(f"{num_experts} experts cannot be spread evenly over {over}")


def slice_unevenly(size: int, parts: int, index: int) -> tuple[int, int]:
    """The `index`-th of `parts` slices of an axis, the first of which have one element more where it does not come out even.

    >>> [slice_unevenly(5, 2, index) for index in (0, 1)]
    [(0, 3), (3, 5)]
    """
    step, more = divmod(size, parts)
    start = index * step + min(index, more)
    return start, start + step + (index < more)


def slice_evenly(axis: str, size: int, parts: int, index: int, why: str) -> tuple[int, int]:
    """The `index`-th of `parts` equal slices of an axis.

    >>> slice_evenly("ffn", 12, 4, 1, "tensor_parallel_size")
    (3, 6)

    Raises LayoutError, naming the axis, its size and what wanted to cut it.
    """
    if size % parts:
        raise LayoutError(
            f"{axis} has {size} elements, which {why} {parts} does not divide", details={"axis": axis, "size": size, "parts": parts}
        )
    step = size // parts
    return index * step, (index + 1) * step
