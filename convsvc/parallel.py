"""The rank grid and the placement of layers: which rank file holds what. Pure.

tp, pp, ep, etp are sizes; t, p, e are a rank's coordinates. Layers are counted with noop layers included where a *position* is meant,
without them where a *layer* is meant. Conventions are Megatron-LM's; those marked MindSpeed are of MindSpeed-LLM (commit c77308a1),
as its converter writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from convsvc.errors import LayoutError

# Ten times the largest training runs have; more are a mistake, of which a list would be made.
MOST_RANKS = 1_000_000


@dataclass(frozen=True, slots=True)
class Parallel:
    """The parallel sizes of a checkpoint, all decided.

    `layers_per_virtual_stage` is None without virtual pipeline stages; `etp` is 1 or `tp`; `noop` are positions.
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


@dataclass(frozen=True, slots=True)
class Rank:
    t: int
    p: int
    e: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a layer lies: pipeline stage, model chunk (None without virtual stages), number within the chunk."""

    stage: int
    chunk: int | None
    number: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Every layer's slot, and the chunks that hold the embedding and the output. `positions` counts noop layers."""

    layers: tuple[Slot, ...]
    first: tuple[int, int | None]
    last: tuple[int, int | None]
    chunks: int | None
    positions: int
    stages: int


def place_layers(num_layers: int, parallel: Parallel) -> Placement:
    """Spread `num_layers` layers (noop ones not counted) over stages and chunks.

    >>> place_layers(3, Parallel(pp=2, noop=(0,))).layers
    (Slot(stage=0, chunk=None, number=1), Slot(stage=1, chunk=None, number=0), Slot(stage=1, chunk=None, number=1))

    Raises LayoutError, naming the numbers, for anything that does not come out even.
    """
    positions = num_layers + len(parallel.noop)
    _check_noop(parallel.noop, positions)
    slots = _positions(positions, parallel)
    layers = tuple(slot for at, slot in enumerate(slots) if at not in set(parallel.noop))
    chunks = _chunks(positions, parallel)
    last_stage, last_chunk = (0, 1) if parallel.dualpipev else (parallel.pp - 1, None if chunks is None else chunks - 1)
    return Placement(layers, (0, None if chunks is None else 0), (last_stage, last_chunk), chunks, positions, parallel.pp)


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


def _check_noop(noop: tuple[int, ...], positions: int) -> None:
    twice = sorted({at for at in noop if noop.count(at) > 1})
    if twice:
        raise LayoutError(f"noop_layers names {', '.join(map(str, twice))} more than once")
    outside = [at for at in noop if not 0 <= at < positions]
    if outside:
        raise LayoutError(f"noop_layers names {', '.join(map(str, outside))}; with them included there are layers 0 to {positions - 1}")


def _chunks(positions: int, parallel: Parallel) -> int | None:
    if parallel.dualpipev:
        return 2
    if parallel.layers_per_virtual_stage is None:
        return None
    return positions // parallel.pp // parallel.layers_per_virtual_stage


def _positions(positions: int, parallel: Parallel) -> list[Slot]:
    if parallel.layer_list is not None:
        return _by_list(positions, parallel)
    if parallel.dualpipev:
        return _v_shape(positions, parallel)
    if parallel.layers_per_virtual_stage is not None:
        return _interleaved(positions, parallel)
    per_stage = _divide(positions, parallel.pp, "pipeline_parallel_size")
    return [Slot(at // per_stage, None, at % per_stage) for at in range(positions)]


def _by_list(positions: int, parallel: Parallel) -> list[Slot]:
    given = parallel.layer_list or ()
    shown = ",".join(map(str, given))
    if parallel.layers_per_virtual_stage is not None or parallel.dualpipev:
        other = "schedules_method dualpipev" if parallel.dualpipev else "num_layers_per_virtual_pipeline_stage"
        raise LayoutError(f"num_layer_list ({shown}) and {other} cannot be set together")
    if parallel.noop:
        raise LayoutError(f"num_layer_list ({shown}) and noop_layers ({','.join(map(str, parallel.noop))}) cannot be set together")
    if len(given) != parallel.pp:
        raise LayoutError(f"num_layer_list ({shown}) has {len(given)} numbers for pipeline_parallel_size {parallel.pp}")
    if sum(given) != positions:
        raise LayoutError(f"num_layer_list ({shown}) adds up to {sum(given)} layers, the model has {positions}")
    return [Slot(stage, None, number) for stage, count in enumerate(given) for number in range(count)]


def _interleaved(positions: int, parallel: Parallel) -> list[Slot]:
    size = parallel.layers_per_virtual_stage or 1
    if parallel.pp == 1:
        raise LayoutError(
            f"num_layers_per_virtual_pipeline_stage is {size}, but pipeline_parallel_size is 1",
            do="virtual stages interleave two or more pipeline stages",
        )
    per_stage = _divide(positions, parallel.pp, "pipeline_parallel_size")
    if per_stage % size:
        raise LayoutError(f"a pipeline stage has {per_stage} layers, which num_layers_per_virtual_pipeline_stage {size} does not divide")
    return [Slot(at // size % parallel.pp, at // size // parallel.pp, at % size) for at in range(positions)]


def _v_shape(positions: int, parallel: Parallel) -> list[Slot]:
    """MindSpeed's dualpipev: chunk 0 goes down the stages, chunk 1 comes back, so stage 0 holds the first and the last layers."""
    if parallel.pp == 1:
        raise LayoutError("schedules_method dualpipev needs two or more pipeline stages; pipeline_parallel_size is 1")
    per_stage = _divide(positions, parallel.pp, "pipeline_parallel_size")
    if per_stage % 2:
        raise LayoutError(
            f"schedules_method dualpipev halves every pipeline stage, but {positions} layers over {parallel.pp} stages are {per_stage} each"
        )
    size = per_stage // 2
    stated = parallel.layers_per_virtual_stage
    if stated is not None and stated != size:
        raise LayoutError(f"schedules_method dualpipev makes chunks of {size} layers; num_layers_per_virtual_pipeline_stage says {stated}")
    down = [Slot(at // size, 0, at % size) for at in range(positions // 2)]
    back = [Slot(parallel.pp - 1 - at // size, 1, at % size) for at in range(positions // 2)]
    return down + back


def _divide(positions: int, parts: int, why: str) -> int:
    if positions % parts:
        raise LayoutError(f"{positions} layers (noop layers included) cannot be spread evenly over {why} {parts}")
    return positions // parts
